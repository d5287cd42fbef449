//! The node binary, as a process: what it prints, how it ends, and what it says about a wrong command line.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// On the driver of `RINGLINK_TEST_DRIVER`, if that names one.
fn ringlink(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlink"));
    command.args(args).env_remove("RUST_LOG");
    if let (Some(&("run" | "demo")), Ok(driver)) = (args.first(), std::env::var("RINGLINK_TEST_DRIVER")) {
        command.args(["--driver", &driver]);
    }
    command
}

/// Runs it to its end, with nothing on standard input.
#[track_caller]
fn output(args: &[&str]) -> Output {
    let mut command = ringlink(args);
    within("the process to end", move || command.stdin(Stdio::null()).output().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn within<T: Send + 'static>(what: &str, f: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || drop(sender.send(f())));
    receiver.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{error}, waiting for {what}"))
}

/// A node that runs; killed if the test ends before it.
struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    #[track_caller]
    fn start(args: &[&str]) -> Self {
        let mut command = ringlink(&[&["run", "--mode", "stream"], args].concat());
        command.stderr(Stdio::piped());
        Self::spawn(command)
    }

    #[track_caller]
    fn spawn(mut command: Command) -> Self {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // Whoever does not read the log would stop it.
        if let Some(mut log) = child.stderr.take() {
            thread::spawn(move || std::io::copy(&mut log, &mut std::io::stderr()));
        }
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { child, output }
    }

    /// With one listener on any port, and where that is.
    #[track_caller]
    fn listening(args: &[&str]) -> (Self, SocketAddr) {
        let mut node = Self::start(&[&["--listen", "127.0.0.1:0"], args].concat());
        let line = node.line();
        let address = line.strip_prefix("listening tcp ").unwrap_or_else(|| panic!("{line:?}"));
        let address = address.parse().unwrap();
        (node, address)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &id]).status().unwrap();
        assert!(sent.success());
    }

    fn end_input(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end; gives the rest of standard output too.
    #[track_caller]
    fn ended(mut self) -> (ExitStatus, String) {
        within("the node to end", move || {
            let mut rest = String::new();
            self.output.read_to_string(&mut rest).unwrap();
            (self.child.wait().unwrap(), rest)
        })
    }

    #[track_caller]
    fn ends_well(self) {
        let (status, rest) = self.ended();
        assert_eq!((status.code(), rest.as_str()), (Some(0), ""));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[track_caller]
fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Bytes without a short period.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9ABC_DEF1_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[test]
fn help_goes_to_standard_output_and_names_every_flag_of_the_contract() {
    let help = output(&["--help"]);
    assert_eq!((help.status.code(), text(&help.stderr)), (Some(0), String::new()));
    for word in ["demo", "run", "Examples", "Exit codes", "RUST_LOG"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let help = output(&["run", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    for word in [
        "--listen",
        "--dial",
        "--service",
        "echo",
        "sink",
        "pipe",
        "--mode",
        "--channels",
        "--loops",
        "--busy-poll",
        "--pin",
        "--log-format",
        "10000",
    ] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    assert_eq!(output(&["--version"]).status.code(), Some(0));
}

#[test]
fn a_usage_error_is_exit_2_and_names_what_is_wrong() {
    for (args, named) in [
        (&["--nonsense"][..], "--nonsense"),
        (&["dance"], "dance"),
        (&["run", "--nonsense"], "--nonsense"),
        (&["run", "--service", "tea"], "--service"),
        (&["run", "--mode", "smoke"], "--mode"),
        (&["run", "--channels", "many"], "--channels"),
        (&["run", "--loops", "0"], "--loops"),
        (&["run", "--listen", "a:b"], "--listen"),
        (&["run", "--dial", "unix:"], "--dial"),
        (&["run", "--busy-poll", "soon"], "--busy-poll"),
        (&["run", "--pin", "0,1"], "--pin"),
        (&["run", "--listen", "none"], "--listen"),
        (&["run", "--listen", "none", "--listen", ":1", "--dial", "a"], "--listen"),
        (&["run", "--loops", "4", "--channels", "0:3"], "--channels"),
        (&["run", "--listen", "127.0.0.1:0", "--outbox-low", "5M"], "--outbox-low"),
        (&["run", "--listen", "127.0.0.1:0", "--congestion", "none-such"], "--congestion"),
        (&["run", "--listen", "127.0.0.1:0", "--pin", "9999"], "--pin"),
        (&["run", "--listen", "127.0.0.1:0", "--pin", "1000"], "--pin"),
        (&["run", "--mode", "stream", "--network", "a"], "--network"),
        (&["demo", "--seconds", "x"], "--seconds"),
    ] {
        let output = output(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        assert!(text(&output.stderr).contains(named), "{args:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty(), "{args:?}: {}", text(&output.stdout));
    }
}

#[test]
fn memory_that_is_refused_is_exit_2_and_names_the_setting() {
    let script = r#"ulimit -v 300000; exec "$0" run --listen 127.0.0.1:0 --channels 0:16777216"#;
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_ringlink")]).stdin(Stdio::null());
    let output = within("the process to end", move || command.output().unwrap());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--channels") && said.contains("no memory"), "{said}");
}

#[test]
fn without_a_command_it_says_how_to_use_it() {
    let output = output(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("Usage"), "{}", text(&output.stderr));
}

#[test]
fn a_taken_port_is_exit_1_and_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for loops in ["1", "2"] {
        let output = output(&["run", "--listen", &address, "--loops", loops]);
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn demo_verifies_bytes_both_ways_and_prints_what_happened() {
    let output = output(&["demo", "--seconds", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).lines().count() >= 3, "{}", text(&output.stdout));
}

#[test]
fn each_listener_has_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node").display().to_string();
    let other = if TcpListener::bind("[::1]:0").is_ok() { "[::1]" } else { "127.0.0.2" };
    let (at, unix) = (format!("{other}:0"), format!("unix:{path}"));
    let mut node = Running::start(&["--listen", "127.0.0.1:0", "--listen", &at, "--listen", &unix]);
    let (first, second) = (node.line(), node.line());
    assert!(first.starts_with("listening tcp 127.0.0.1:"), "{first}");
    assert!(second.starts_with(&format!("listening tcp {other}:")), "{second}");
    assert_eq!(node.line(), format!("listening unix {path}"));
    // The line comes once it accepts.
    for address in [first, second] {
        let mut client = connect(address.strip_prefix("listening tcp ").unwrap().parse().unwrap());
        client.write_all(b"hello").unwrap();
        client.read_exact(&mut [0; 5]).unwrap();
    }
    UnixStream::connect(path).unwrap().write_all(b"hello").unwrap();
    node.signal("TERM");
    node.ends_well();
}

fn echoes(args: &[&str]) {
    let (node, address) = Running::listening(args);
    let mut client = connect(address);
    let data = noise(4 << 20);
    let (mut writer, sent) = (client.try_clone().unwrap(), data.clone());
    let writer = thread::spawn(move || {
        writer.write_all(&sent).unwrap();
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let mut got = Vec::new();
    client.read_to_end(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == data, "{} bytes came back, not the {} sent", got.len(), data.len());
    node.signal("INT");
    node.ends_well();
}

#[test]
fn echo_sends_everything_back() {
    echoes(&[]);
    echoes(&["--service", "echo", "--loops", "2", "--channels", "100:50"]);
    echoes(&["--log-format", "json", "--busy-poll", "50us", "--pin", "0", "--receive-buffers", "4x1KiB"]);
}

#[test]
fn sink_takes_everything_and_prints_nothing() {
    let (node, address) = Running::listening(&["--service", "sink"]);
    let mut client = connect(address);
    client.write_all(&noise(2 << 20)).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    node.signal("TERM");
    node.ends_well();
}

#[test]
fn pipe_joins_standard_input_and_output_with_a_dialed_peer() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let mut node = Running::start(&["--listen", "none", "--dial", &address, "--service", "pipe"]);
    let (mut peer, _) = within("the dial", move || listener.accept().unwrap());
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let data = noise(1 << 20);
    let mut input = node.child.stdin.take().unwrap();
    let sent = data.clone();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    peer.write_all(b"an answer").unwrap();
    let mut got = vec![0; data.len()];
    peer.read_exact(&mut got).unwrap();
    writer.join().unwrap();
    assert!(got == data);
    let mut answer = [0; 9];
    node.output.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"an answer");
    // Its input has ended: so does the connection, and when ours has too, the node.
    assert_eq!(peer.read(&mut [0]).unwrap(), 0);
    drop(peer);
    node.ends_well();
}

#[test]
fn a_pipe_whose_input_or_output_fails_is_exit_1_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap().to_string();
    let pipe = |input: File, output: File| {
        let mut command =
            ringlink(&["run", "--mode", "stream", "--listen", "none", "--service", "pipe", "--dial", &to]);
        let node = command.stdin(input).stdout(output).stderr(Stdio::piped()).spawn().unwrap();
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"for the output").unwrap();
        drop(peer);
        let output = within("the pipe to end", move || node.wait_with_output().unwrap());
        (output.status.code(), text(&output.stderr))
    };
    let (full, null) =
        (|| File::options().write(true).open("/dev/full").unwrap(), || File::open("/dev/null").unwrap());
    let sink = || File::options().write(true).open("/dev/null").unwrap();
    let (code, said) = pipe(null(), full());
    assert!(code == Some(1) && said.contains("cannot write the output: No space left"), "{code:?} {said}");
    let (code, said) = pipe(File::open("/").unwrap(), sink());
    assert!(code == Some(1) && said.contains("cannot read the input: Is a directory"), "{code:?} {said}");
    let (code, said) = pipe(null(), sink());
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn an_address_where_nobody_listens_is_dialed_until_somebody_does() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let node = Running::start(&["--listen", "none", "--dial", &nobody, "--service", "pipe"]);
    for _ in 0..2 {
        let listener = TcpListener::bind(&nobody).unwrap();
        let peer = within("the dial", move || listener.accept().unwrap());
        drop(peer);
    }
    node.signal("TERM");
    node.ends_well();
}

/// A client that sends without end and wants back, until the end of file, what it sent. Returns when the first of it is
/// back.
fn load(to: SocketAddr, data: &[u8]) -> thread::JoinHandle<usize> {
    let mut client = connect(to);
    let (mut writer, sent) = (client.try_clone().unwrap(), data.to_vec());
    let writer = thread::spawn(move || while writer.write_all(&sent).is_ok() {});
    let data = data.to_vec();
    let (served, is_served) = mpsc::channel();
    let reader = thread::spawn(move || {
        let (mut total, mut buffer) = (0, vec![0; 64 << 10]);
        loop {
            match client.read(&mut buffer).expect("the node closes in order") {
                0 => break,
                n => {
                    served.send(()).ok();
                    for &byte in &buffer[..n] {
                        assert_eq!(byte, data[total % data.len()], "byte {total}");
                        total += 1;
                    }
                }
            }
        }
        drop(client.shutdown(Shutdown::Both));
        writer.join().unwrap();
        total
    });
    is_served.recv_timeout(PATIENCE).expect("the client is served");
    reader
}

#[test]
fn sigterm_under_full_load_flushes_and_exits_0() {
    for loops in ["1", "2"] {
        let (node, address) =
            Running::listening(&["--loops", loops, "--grace", "50s", "--linger-timeout", "5s"]);
        let data = noise(100_000);
        let clients: Vec<_> = (0..12).map(|_| load(address, &data)).collect();
        // Full load: this one got a megabyte through among all the others.
        let mut client = connect(address);
        for _ in 0..16 {
            client.write_all(&data[..65_536]).unwrap();
            client.read_exact(&mut vec![0; 65_536]).unwrap();
        }
        node.signal("TERM");
        drop(client);
        for client in clients {
            assert!(client.join().unwrap() > 0);
        }
        node.ends_well();
    }
}

/// A client that sends and does not read, until nothing goes any more.
fn stuck(to: SocketAddr) -> TcpStream {
    let mut client = connect(to);
    client.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    while client.write_all(&[0; 100_000]).is_ok() {}
    client
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (node, address) =
        Running::listening(&["--grace", "10m", "--close-timeout", "10m", "--write-timeout", "0s"]);
    let client = stuck(address);
    node.signal("TERM");
    node.signal("INT");
    let (status, _) = node.ended();
    assert!(status.code().is_some(), "killed by the signal, not ended: {status}");
    drop(client);
}

#[test]
fn a_grace_that_runs_out_ends_it() {
    let (node, address) = Running::listening(&["--grace", "100ms"]);
    let client = stuck(address);
    node.signal("TERM");
    assert_eq!(node.ended().0.code(), Some(0));
    drop(client);
}

#[test]
fn end_of_input_ends_a_pipe_and_nothing_else() {
    let (mut echo, address) = Running::listening(&[]);
    echo.end_input();
    let mut client = connect(address);
    client.write_all(b"alive").unwrap();
    client.read_exact(&mut [0; 5]).unwrap();
    echo.signal("TERM");
    echo.ends_well();
}

/// A node in message mode with the pipe service; its log is kept.
fn message_pipe(args: &[&str], log: &std::path::Path) -> Running {
    let mut command = ringlink(&[&["run", "--service", "pipe"], args].concat());
    command.stderr(File::create(log).unwrap());
    Running::spawn(command)
}

fn say(node: &mut Running, line: &str) {
    writeln!(node.child.stdin.as_mut().unwrap(), "{line}").unwrap();
}

#[test]
fn lines_go_both_ways_between_two_pipes_and_again_after_one_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (id, log) = (folder.path().join("id"), folder.path().join("log"));
    let id = id.to_str().unwrap();
    let listen = ["--listen", &address, "--id-file", id];
    let dial = ["--listen", "none", "--dial", &address, "--from"];
    let mut dialer = message_pipe(&dial, &log);
    let mut id_seen = None;
    for round in ["one", "two"] {
        let mut listener = message_pipe(&listen, &folder.path().join("other"));
        assert_eq!(listener.line(), format!("listening tcp {address}"));
        // Nobody reads a line of the input before there is a link.
        say(&mut listener, &format!("{round} from the listener"));
        let line = dialer.line();
        let (from, line) = line.split_once(' ').unwrap();
        assert_eq!(line, format!("{round} from the listener"));
        assert_eq!(id_seen.get_or_insert_with(|| from.to_owned()), from, "the id outlives the process");
        say(&mut dialer, &format!("{round} from the dialer"));
        assert_eq!(listener.line(), format!("{round} from the dialer"));
        drop(listener); // SIGKILL
        // The kernel takes a ring apart after its process, and only then lets go of the listener.
        let at = address.clone();
        within("the port to be free", move || {
            while TcpListener::bind(&at).is_err() {
                thread::yield_now();
            }
        });
    }
    dialer.signal("TERM");
    dialer.ends_well();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("linked again after"), "{log}");
}
