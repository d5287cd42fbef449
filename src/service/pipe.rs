//! Standard input to every channel, every channel to standard output.
//!
//! Both ends may block for as long as they like, so each has a thread of its own: `read_input` and `write_output`. The
//! loops never wait for them: what they share is a buffer under a mutex, and channels whose bytes find it full are
//! paused. Towards the channels it is the reader that waits, whenever an outbox fills up.

use std::collections::HashMap;
use std::io::{self, BufRead, Read as _, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::{Buf as _, Bytes};

use crate::{
    ChannelId, ChannelInfo, ChannelState, CloseReport, CommandError, Context, Handle, Handler, Limits, Mode,
    SendError, TimerId,
};

/// Channels are paused while so many bytes wait for the output; each may add what it had just received.
const OUTPUT_HIGH: usize = 1 << 20;
/// The most input that is read at once, and that is sent between two looks at the outboxes.
const BLOCK: usize = 64 << 10;
const WINDOW: usize = 256 << 10;
/// A channel of which one side has ended is closed when nothing moves on it for so long: the other side may have more to
/// say, but need not ever end.
const SILENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(250);
const GRACE: Duration = Duration::from_secs(5);

/// A handler that joins an input and an output to all channels of a node. Clones share them: one for each loop.
///
/// The node ends by itself: when the input has ended, everything is sent, and the peers have closed or fallen silent;
/// or when the output is broken.
#[derive(Clone, Debug)]
pub struct Pipe {
    shared: Arc<Shared>,
    /// What each message begins with, if that is wanted.
    names: Option<HashMap<ChannelId, String>>,
}

#[derive(Debug)]
struct Shared {
    input: Mutex<Input>,
    input_changed: Condvar,
    output: Mutex<Output>,
    output_changed: Condvar,
    /// What the input or the output failed with first.
    failure: Mutex<Option<io::Error>>,
    outbox_low: usize,
    /// Input that may be sent without a look at the outboxes.
    window: usize,
    line_max: usize,
}

#[derive(Debug, Default)]
struct Input {
    open: HashMap<ChannelId, Open>,
    /// True once the input has ended and the channels were told so.
    ended: bool,
    /// True once a loop of the node has stopped.
    stopped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Open {
    /// How often the outbox has drained.
    drained: u64,
    peer_ended: bool,
}

/// `writing` bytes are with the writer, `waiting` comes after them.
#[derive(Debug, Default)]
struct Output {
    waiting: Vec<u8>,
    writing: usize,
    paused: Vec<ChannelId>,
    /// True once what waits will never be written, or nobody waits for it any more.
    is_broken: bool,
}

impl Pipe {
    /// A pipe for a node with these limits, not connected to anything yet.
    pub fn new(limits: &Limits) -> Self {
        let room = limits.outbox_max.saturating_sub(limits.outbox_low);
        let shared = Shared {
            input: Mutex::default(),
            input_changed: Condvar::new(),
            output: Mutex::default(),
            output_changed: Condvar::new(),
            failure: Mutex::default(),
            outbox_low: limits.outbox_low,
            // One block more than the window may be sent before the reader looks, and all of it must find room.
            window: (room / 2).clamp(1, WINDOW),
            line_max: room.min(limits.max_message).max(1),
        };
        Self { shared: Arc::new(shared), names: None }
    }

    /// Begins each message that is written with the first 8 digits of its sender's id and a space.
    #[must_use]
    pub fn with_names(self) -> Self {
        Self { names: Some(HashMap::new()), ..self }
    }

    /// Starts the two threads. They end with the node, or when what blocks them then lets them go.
    ///
    /// # Errors
    /// A thread could not be started.
    pub fn connect(
        &self,
        node: &Handle,
        mode: Mode,
        input: impl BufRead + Send + 'static,
        output: impl Write + Send + 'static,
    ) -> io::Result<()> {
        let (shared, to) = (Arc::clone(&self.shared), node.clone());
        thread::Builder::new().name("pipe-output".into()).spawn(move || shared.write_output(&to, output))?;
        let (shared, to) = (Arc::clone(&self.shared), node.clone());
        thread::Builder::new()
            .name("pipe-input".into())
            .spawn(move || shared.read_input(&to, mode, input))?;
        Ok(())
    }

    /// Waits until everything received is written, or the output is broken or given up.
    ///
    /// # Errors
    /// What reading the input or writing the output failed with, once. That the output's reader has left is none.
    pub fn flush(&self) -> io::Result<()> {
        let mut output = lock(&self.shared.output);
        while output.pending() > 0 && !output.is_broken {
            output = wait(&self.shared.output_changed, output);
        }
        drop(output);
        lock(&self.shared.failure).take().map_or(Ok(()), Err)
    }

    /// Gives the output up when this time is over.
    pub fn hurry(&self, patience: Duration) {
        let shared = Arc::clone(&self.shared);
        let give_up = move || {
            let output = lock(&shared.output);
            let waited = shared.output_changed.wait_timeout_while(output, patience, |o| !o.is_broken);
            let (mut output, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if output.pending() > 0 && !output.is_broken {
                tracing::warn!(bytes = output.pending(), "the output takes nothing; giving up");
            }
            output.is_broken = true;
            shared.output_changed.notify_all();
        };
        if let Err(error) = thread::Builder::new().name("pipe-hurry".into()).spawn(give_up) {
            tracing::error!(%error, "cannot start a thread; giving the output up now");
            lock(&self.shared.output).is_broken = true;
            self.shared.output_changed.notify_all();
        }
    }

    fn write(&self, cx: &mut Context<'_>, channel: ChannelId, parts: [&[u8]; 3]) {
        let mut output = lock(&self.shared.output);
        if output.is_broken {
            return;
        }
        parts.iter().for_each(|part| output.waiting.extend_from_slice(part));
        if output.pending() >= OUTPUT_HIGH {
            output.paused.push(channel);
            cx.pause(channel);
        }
        drop(output);
        self.shared.output_changed.notify_all();
    }
}

impl Handler for Pipe {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        cx.set_timer(TICK, 0);
    }

    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, info: &ChannelInfo) {
        if let (Some(names), Some(node)) = (&mut self.names, &info.peer) {
            names.insert(channel, format!("{} ", node.node_id.short()));
        }
        let mut input = lock(&self.shared.input);
        if input.ended {
            cx.close(channel);
        }
        input.open.insert(channel, Open::default());
        drop(input);
        self.shared.input_changed.notify_all();
    }

    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        self.write(cx, channel, [b"", data, b""]);
    }

    fn on_message(&mut self, cx: &mut Context<'_>, channel: ChannelId, message: &[u8]) {
        let name = self.names.as_ref().and_then(|names| names.get(&channel)).map_or("", String::as_str);
        self.write(cx, channel, [name.as_bytes(), message, b"\n"]);
    }

    fn on_eof(&mut self, _: &mut Context<'_>, channel: ChannelId) {
        // The input's thread says when our side ends, behind what it has sent: a close from here would overtake that.
        if let Some(open) = lock(&self.shared.input).open.get_mut(&channel) {
            open.peer_ended = true;
        }
    }

    fn on_drained(&mut self, _: &mut Context<'_>, channel: ChannelId) {
        if let Some(open) = lock(&self.shared.input).open.get_mut(&channel) {
            open.drained += 1;
        }
        self.shared.input_changed.notify_all();
    }

    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &CloseReport) {
        if let Some(names) = &mut self.names {
            names.remove(&channel);
        }
        let mut input = lock(&self.shared.input);
        let was_open = input.open.remove(&channel).is_some();
        if was_open && input.ended && input.open.is_empty() {
            cx.shutdown(GRACE);
        }
        drop(input);
        self.shared.input_changed.notify_all();
    }

    fn on_timer(&mut self, cx: &mut Context<'_>, _: TimerId, _: u64) {
        for channel in self.shared.silent(cx) {
            cx.close(channel);
        }
        cx.set_timer(TICK, 0);
    }

    fn on_stop(&mut self, _: &mut Context<'_>) {
        lock(&self.shared.input).stopped = true;
        self.shared.input_changed.notify_all();
    }
}

impl Shared {
    fn fail(&self, what: &str, error: &io::Error) {
        tracing::error!(%error, what);
        lock(&self.failure).get_or_insert_with(|| io::Error::new(error.kind(), format!("{what}: {error}")));
    }
}

/// The input's side.
impl Shared {
    fn read_input(&self, node: &Handle, mode: Mode, mut input: impl BufRead) {
        let mut unseen = 0;
        // Input that is read while nobody is there would be lost.
        while self.wait_for_channel() {
            let block = match self.next_block(mode, &mut input) {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(error) => {
                    self.fail("cannot read the input", &error);
                    break;
                }
            };
            if !self.wait_for_channel() {
                return;
            }
            let channels: Vec<_> = lock(&self.input).open.keys().copied().collect();
            for channel in channels {
                self.send(node, channel, &block);
            }
            unseen += block.len();
            if unseen >= self.window {
                self.wait_for_room(node);
                unseen = 0;
            }
        }
        self.end_input(node);
    }

    /// Waits until a channel is open; false when none ever will be.
    fn wait_for_channel(&self) -> bool {
        let mut input = lock(&self.input);
        while input.open.is_empty() && !input.stopped {
            input = wait(&self.input_changed, input);
        }
        !input.stopped
    }

    /// A line without its end, or bytes as they come; none at the end of the input.
    fn next_block(&self, mode: Mode, input: &mut impl BufRead) -> io::Result<Option<Bytes>> {
        if mode == Mode::Message {
            let mut line = Vec::new();
            // A longer line becomes several messages: as one it could never be sent.
            input.take(self.line_max as u64).read_until(b'\n', &mut line)?;
            let end_of_input = line.is_empty();
            line.pop_if(|last| *last == b'\n');
            return Ok((!end_of_input).then(|| Bytes::from(line)));
        }
        loop {
            match input.fill_buf() {
                Ok(bytes) => {
                    let block = Bytes::copy_from_slice(&bytes[..bytes.len().min(BLOCK).min(self.window)]);
                    input.consume(block.len());
                    return Ok((!block.is_empty()).then_some(block));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&self, node: &Handle, channel: ChannelId, block: &Bytes) {
        let (mut rest, mut most) = (block.clone(), block.len());
        loop {
            let piece = rest.slice(..rest.len().min(most));
            let len = piece.len();
            match node.send_bytes(channel, piece) {
                Ok(()) if len == rest.len() => return,
                Ok(()) => rest.advance(len),
                Err(SendError::Closed | SendError::NotOpen) => return,
                Err(SendError::WouldBlock { .. } | SendError::Busy) if lock(&self.input).stopped => return,
                Err(SendError::WouldBlock { .. } | SendError::Busy) => self.wait_for_room(node),
                // This peer takes shorter messages than we.
                Err(SendError::TooBig { max, .. }) => {
                    debug_assert!(max < len, "what is refused is longer than what is not");
                    most = max;
                }
            }
        }
    }

    /// Waits until no outbox holds more than its low watermark.
    fn wait_for_room(&self, node: &Handle) {
        // Taken before the outboxes are looked at: a drain in between ends the wait, it is not missed.
        let seen = lock(&self.input).open.clone();
        // The question passes through the loops' mailboxes, behind everything sent so far.
        let channels = match node.channels() {
            Ok(channels) => channels,
            Err(CommandError::Busy) => return self.breathe(),
            Err(CommandError::Closed | CommandError::Stopped | CommandError::OnLoopThread) => return,
        };
        for info in channels.iter().filter(|info| info.bytes_queued > self.outbox_low) {
            let Some(open) = seen.get(&info.id) else { continue };
            let mut input = lock(&self.input);
            while !input.stopped && input.open.get(&info.id).is_some_and(|now| now.drained == open.drained) {
                input = wait(&self.input_changed, input);
            }
        }
    }

    /// Waits a moment: a full mailbox does not say when it has room.
    fn breathe(&self) {
        let moment = Duration::from_millis(1);
        drop(self.input_changed.wait_timeout(lock(&self.input), moment));
    }

    /// Says to every channel that nothing more comes; the last of them to close ends the node.
    fn end_input(&self, node: &Handle) {
        let mut input = lock(&self.input);
        input.ended = true;
        let open = input.open.clone();
        drop(input);
        if open.is_empty() {
            node.shutdown(GRACE);
        }
        for (channel, open) in open {
            let end = || if open.peer_ended { node.close(channel) } else { node.shutdown_write(channel) };
            while end() == Err(CommandError::Busy) {
                self.breathe();
            }
        }
    }

    /// The loop's channels that one side has ended and the other does not use.
    fn silent(&self, cx: &Context<'_>) -> Vec<ChannelId> {
        let input = lock(&self.input);
        if !input.ended && !input.open.values().any(|open| open.peer_ended) {
            return Vec::new();
        }
        let is_silent = |info: &ChannelInfo| {
            let half_ended = input.open.get(&info.id).is_some_and(|open| open.peer_ended || input.ended);
            // A paused channel waits for our own output.
            half_ended
                && info.state == ChannelState::Open
                && info.bytes_queued == 0
                && !info.paused
                && info.idle >= SILENCE
        };
        cx.channels().iter().filter(|info| is_silent(info)).map(|info| info.id).collect()
    }
}

/// The output's side.
impl Shared {
    fn write_output(&self, node: &Handle, mut to: impl Write) {
        let mut taken = Vec::new();
        loop {
            self.take_output(node, &mut taken);
            if let Err(error) = to.write_all(&taken).and_then(|()| to.flush()) {
                // There is nothing left to do.
                if error.kind() == io::ErrorKind::BrokenPipe {
                    tracing::info!(%error, "the output's reader has left"); // as in `ringlink run … | head -1`
                } else {
                    self.fail("cannot write the output", &error);
                }
                let mut output = lock(&self.output);
                *output = Output { is_broken: true, ..Output::default() };
                drop(output);
                self.output_changed.notify_all();
                return node.shutdown(GRACE);
            }
        }
    }

    /// Waits for output and takes all there is; lets paused channels go on meanwhile.
    fn take_output(&self, node: &Handle, taken: &mut Vec<u8>) {
        taken.clear();
        let mut output = lock(&self.output);
        output.writing = 0;
        self.output_changed.notify_all();
        loop {
            if output.waiting.len() < OUTPUT_HIGH && !output.paused.is_empty() {
                let mut paused = std::mem::take(&mut output.paused);
                drop(output);
                paused.retain(|channel| node.resume(*channel) == Err(CommandError::Busy));
                output = lock(&self.output);
                output.paused.append(&mut paused);
            }
            if !output.waiting.is_empty() {
                std::mem::swap(&mut output.waiting, taken);
                output.writing = taken.len();
                return;
            }
            output = if output.paused.is_empty() {
                wait(&self.output_changed, output)
            } else {
                // The mailbox was full, and does not say when it has room.
                let moment = Duration::from_millis(1);
                let waited = self.output_changed.wait_timeout(output, moment);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

impl Output {
    fn pending(&self) -> usize {
        self.waiting.len() + self.writing
    }
}

/// Nothing is left half-changed under these locks, so a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait<'a, T>(changed: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
