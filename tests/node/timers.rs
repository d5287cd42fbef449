//! Timers of a loop.

use std::sync::Mutex;
use std::time::Duration;

use ringlink::TimerId;

use crate::support::foreign;
use crate::support::{Bed, Call, Event, PLANNED, Plan, Setup, eventually, node_test};

fn tokens(bed: &Bed, count: usize) -> Vec<u64> {
    (0..count)
        .map(|_| {
            bed.wait("on_timer", |e| match e {
                Event::Timer { token, .. } => Some(*token),
                _ => None,
            })
        })
        .collect()
}

/// A plan that does something once, on loop 0, at the start.
fn at_start(script: impl Fn(&mut ringlink::Context<'_>) + Send + Sync + 'static) -> Plan {
    Plan::listen().script(move |cx, call, _| {
        if let (Call::Start, 0) = (call, cx.loop_index()) {
            script(cx);
        }
    })
}

node_test!(timers_fire_once_in_the_order_of_their_times, |setup| {
    let plan = at_start(|cx| {
        for token in [30, 10, 50, 20, 40, 0] {
            cx.set_timer(Duration::from_millis(token), token);
        }
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    assert_eq!(tokens(&bed, 6), [0, 10, 20, 30, 40, 50]);
    bed.settle();
    assert_eq!(bed.count(|e| matches!(e, Event::Timer { .. })), 0);
});

node_test!(timers_of_one_time_fire_in_the_order_they_were_set, |setup| {
    let plan = at_start(|cx| {
        for token in 0..100 {
            cx.set_timer(Duration::ZERO, token);
        }
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    assert_eq!(tokens(&bed, 100), (0..100).collect::<Vec<_>>());
});

node_test!(a_timer_does_not_fire_early, |setup| {
    let begun = Mutex::new(None);
    let plan = Plan::listen().script(move |cx, call, journal| match call {
        Call::Start if cx.loop_index() == 0 => {
            *begun.lock().unwrap() = Some(cx.now());
            cx.set_timer(Duration::from_millis(25), 0);
        }
        Call::Timer(..) => {
            let passed = cx.now().since(begun.lock().unwrap().expect("on_start came first"));
            if passed < Duration::from_millis(25) {
                journal.fault(format!("fired after {passed:?}"));
            }
        }
        _ => {}
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    assert_eq!(tokens(&bed, 1), [0]);
});

node_test!(a_cancelled_timer_does_not_fire, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| {
        if let (Call::Start, 0) = (call, cx.loop_index()) {
            let cancelled = cx.set_timer(Duration::ZERO, 1);
            let kept = cx.set_timer(Duration::from_millis(5), 2);
            let later = cx.set_timer(Duration::from_secs(3600), 3);
            let answers = [cx.cancel_timer(cancelled), cx.cancel_timer(cancelled), cx.cancel_timer(later)];
            if answers != [true, false, true] || kept == cancelled {
                journal.fault(format!("cancel_timer answered {answers:?}"));
            }
        }
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    assert_eq!(tokens(&bed, 1), [2]);
    bed.settle();
    assert_eq!(bed.count(|e| matches!(e, Event::Timer { .. })), 0);
});

node_test!(a_timer_that_has_fired_can_no_longer_be_cancelled, |setup| {
    let plan = Plan::listen().script(|cx, call, journal| match *call {
        Call::Start if cx.loop_index() == 0 => {
            cx.set_timer(Duration::ZERO, 1);
        }
        Call::Timer(timer, _) if cx.cancel_timer(timer) => {
            journal.fault("the timer that fires was cancelled".into());
        }
        _ => {}
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    tokens(&bed, 1);
});

node_test!(a_timer_may_cancel_another_of_the_same_time, |setup| {
    let others: Mutex<Vec<TimerId>> = Mutex::default();
    let plan = Plan::listen().script(move |cx, call, _| match *call {
        Call::Start if cx.loop_index() == 0 => {
            let set = |token| cx.set_timer(Duration::ZERO, token);
            others.lock().unwrap().extend((0..10).map(set));
        }
        Call::Timer(_, 0) => {
            for &other in others.lock().unwrap().iter() {
                cx.cancel_timer(other);
            }
        }
        _ => {}
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    assert_eq!(tokens(&bed, 1), [0]);
    bed.settle();
    assert_eq!(bed.count(|e| matches!(e, Event::Timer { .. })), 0);
});

node_test!(a_timer_sets_the_next_one, |setup| {
    let plan = Plan::listen().script(|cx, call, _| match *call {
        Call::Start if cx.loop_index() == 0 => {
            cx.set_timer(Duration::ZERO, 0);
        }
        Call::Timer(_, token @ ..50) => {
            cx.set_timer(Duration::ZERO, token + 1);
        }
        _ => {}
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    assert_eq!(tokens(&bed, 51), (0..=50).collect::<Vec<_>>());
});

node_test!(timers_that_set_each_other_for_ever_keep_nobody_waiting, |setup| {
    let plan = Plan::echo().script(|cx, call, _| match *call {
        Call::Data(..) | Call::Timer(..) => {
            cx.set_timer(Duration::ZERO, 0);
        }
        _ => {}
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    let mut client = foreign::connect(bed.address());
    for _ in 0..3 {
        foreign::echo_once(&mut client, b"and the others are served all the while");
    }
    drop(client);
    bed.shut_down();
});

node_test!(a_timer_far_away_does_not_keep_a_node_from_ending, |setup| {
    let plan = at_start(|cx| {
        cx.set_timer(Duration::from_secs(3600), 0);
        cx.set_timer(Duration::MAX, 1);
    });
    let bed = Bed::start(setup, setup.dialer(), plan);
    bed.shut_down();
    assert_eq!(bed.count(|e| matches!(e, Event::Timer { .. })), 0);
});

node_test!(a_panic_in_on_timer_costs_nobody_a_channel, |setup| {
    let plan = Plan::echo().script(|cx, call, _| match *call {
        Call::Start if cx.loop_index() == 0 => {
            for token in 0..3 {
                cx.set_timer(Duration::ZERO, token);
            }
        }
        Call::Timer(_, 1) => panic!("{PLANNED}on_timer"),
        _ => {}
    });
    let bed = Bed::start(setup, setup.listener(), plan);
    assert_eq!(tokens(&bed, 3), [0, 1, 2]);
    eventually("the panic to be counted", || bed.handle.stats().handler_panics == 1);
    foreign::echo_all(foreign::connect(bed.address()), b"alive", 2);
});
