//! Two nodes talk: one dials the other and greets, the other answers and closes. Ends by itself.
#![expect(clippy::print_stdout, reason = "it is a program that talks")]

use std::time::Duration;

use ringlink::{Address, ChannelId, ChannelInfo, CloseReport, Context, Handler, Mode, Node};

/// Answers the first bytes of each channel, then closes it; what is queued is sent first.
struct Answerer;

impl Handler for Answerer {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        println!("answerer: channel {channel} says {:?}", String::from_utf8_lossy(data));
        if let Err(error) = cx.send(channel, b"hello yourself") {
            eprintln!("answerer: {error}");
        }
        cx.close(channel);
    }
}

/// Dials when its loop starts, and shuts its node down when the channel has closed.
struct Greeter {
    to: Address,
}

impl Handler for Greeter {
    fn on_start(&mut self, cx: &mut Context<'_>) {
        if let Err(error) = cx.dial(self.to.clone()) {
            eprintln!("greeter: {error}");
            cx.shutdown(Duration::ZERO);
        }
    }

    fn on_open(&mut self, cx: &mut Context<'_>, channel: ChannelId, _: &ChannelInfo) {
        if let Err(error) = cx.send(channel, b"hello") {
            eprintln!("greeter: {error}");
        }
    }

    fn on_data(&mut self, _: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        println!("greeter: channel {channel} says {:?}", String::from_utf8_lossy(data));
    }

    fn on_close(&mut self, cx: &mut Context<'_>, channel: ChannelId, report: &CloseReport) {
        println!("greeter: channel {channel} closed: {report}");
        cx.shutdown(Duration::from_secs(1));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let answerer = Node::builder().mode(Mode::Stream).listen_on("127.0.0.1:0")?.start(|_| Answerer)?;
    let to = Address::from(answerer.local_addrs()[0].clone());
    let greeter = Node::builder().mode(Mode::Stream).start(move |_| Greeter { to: to.clone() })?;
    greeter.join()?;
    answerer.shutdown(Duration::from_secs(1));
    Ok(answerer.join()?)
}
