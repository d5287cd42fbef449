//! The mailbox under loom, which runs every order the memory model allows: `ci/loom.sh`. A lost wake-up shows as a
//! deadlock, since nothing else would ever wake the waiting loop.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use loom::sync::Notify;
use loom::thread;

use super::*;

/// Like an eventfd: a wake before the wait ends the wait.
#[derive(Clone)]
struct ModelWaker {
    notify: Arc<Notify>,
    // Not loom's: a count that takes no part in the race.
    wakes: Arc<AtomicUsize>,
}

impl fmt::Debug for ModelWaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ModelWaker")
    }
}

impl Waker for ModelWaker {
    fn wake(&self) {
        self.wakes.fetch_add(1, Relaxed);
        self.notify.notify();
    }
}

fn mailbox(commands: usize) -> (Arc<Mailbox<ModelWaker>>, ModelWaker) {
    let waker = ModelWaker { notify: Arc::new(Notify::new()), wakes: Arc::default() };
    let limits = Limits { mailbox_commands: commands, ..Limits::default() };
    (Arc::new(Mailbox::new(waker.clone(), &limits, Arc::default())), waker)
}

fn channel() -> ChannelId {
    ChannelId::new(1, 1)
}

fn send(mailbox: &Mailbox<ModelWaker>, channel: ChannelId, parts: &[&[u8]]) -> Result<(), PostError> {
    mailbox.post_send(channel, parts, |_| Ok(Framing::STREAM))
}

/// The loop until it has had at least `wanted` commands; returns how many it had.
fn run_loop(mailbox: &Mailbox<ModelWaker>, waker: &ModelWaker, wanted: usize) -> usize {
    let (mut mail, mut had) = (Mail::default(), 0);
    while had < wanted {
        if mailbox.take(&mut mail) {
            had += mail.count;
            mail.clear();
        } else if mailbox.prepare_to_sleep() {
            waker.notify.wait();
            mailbox.awake();
        }
    }
    had
}

fn model(check: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    // A fence left out is found with 2; 20 found nothing more, and took 44 s.
    builder.preemption_bound = builder.preemption_bound.or(Some(5));
    builder.check(check);
}

#[test]
fn loom_no_wake_up_is_lost() {
    model(|| {
        let (mailbox, waker) = mailbox(8);
        let poster = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                send(&mailbox, channel(), &[b"1"]).unwrap();
                send(&mailbox, channel(), &[b"2"]).unwrap();
                mailbox.post(Command::Close(channel())).unwrap();
            })
        };
        assert_eq!(run_loop(&mailbox, &waker, 3), 3);
        poster.join().unwrap();
    });
}

#[test]
fn loom_two_posters_wake_a_sleep_once() {
    model(|| {
        let (mailbox, waker) = mailbox(8);
        let posters = [(); 2].map(|()| {
            let mailbox = mailbox.clone();
            thread::spawn(move || send(&mailbox, channel(), &[b"x"]).unwrap())
        });
        // Announced and never waited for: whatever the posters do, one wake answers it.
        let sleep = mailbox.prepare_to_sleep();
        for poster in posters {
            poster.join().unwrap();
        }
        let wakes = waker.wakes.load(Relaxed);
        assert!(wakes <= 1, "{wakes} wakes for one sleep");
        assert!(!sleep || wakes == 1, "asleep with mail, and nobody woke it");
    });
}

#[test]
fn loom_a_full_mailbox_refuses_and_loses_nothing() {
    model(|| {
        let (mailbox, waker) = mailbox(1);
        let poster = {
            let mailbox = mailbox.clone();
            thread::spawn(move || {
                let accepted = (0..2).filter(|_| send(&mailbox, channel(), &[b"x"]).is_ok()).count();
                mailbox.post_always(Command::Shutdown { grace: std::time::Duration::ZERO }).unwrap();
                accepted
            })
        };
        let had = run_loop(&mailbox, &waker, 1);
        let accepted = poster.join().unwrap();
        assert!((1..=2).contains(&accepted));
        assert_eq!(had + mailbox.close().count, accepted + 1);
    });
}

#[test]
fn loom_a_post_against_a_close_is_refused_or_handed_over() {
    model(|| {
        let (mailbox, _waker) = mailbox(8);
        let poster = {
            let mailbox = mailbox.clone();
            thread::spawn(move || send(&mailbox, channel(), &[b"x"]))
        };
        let mut mail = Mail::default();
        mailbox.take(&mut mail);
        let got = mail.count + mailbox.close().count;
        assert_eq!(usize::from(poster.join().unwrap().is_ok()), got);
        assert_eq!(mailbox.post(Command::Close(channel())), Err(PostError::Closed));
    });
}
