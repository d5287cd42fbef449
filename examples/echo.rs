//! An echo node in stream mode: `cargo run --example echo [ADDR]`, then `nc 127.0.0.1 10000`.

use ringlink::{ChannelId, Context, Handler, Mode, Node};

struct Echo;

impl Handler for Echo {
    fn on_data(&mut self, cx: &mut Context<'_>, channel: ChannelId, data: &[u8]) {
        if cx.send(channel, data).is_err() {
            cx.abort(channel); // cannot happen: reading pauses long before the outbox is full
        } else if cx.is_backed_up(channel) {
            cx.pause(channel); // a peer that does not read is not read from
        }
    }

    fn on_drained(&mut self, cx: &mut Context<'_>, channel: ChannelId) {
        cx.resume(channel);
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10000".into());
    let node = Node::builder().mode(Mode::Stream).listen_on(&address)?.start(|_| Echo)?;
    eprintln!("echoing on {}", node.local_addrs()[0]);
    Ok(node.join()?)
}
