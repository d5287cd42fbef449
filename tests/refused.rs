//! The node binary where io_uring is refused in part or in whole: it says why and how to mend it, and takes the other
//! driver where that one works. Each case is a child process under a seccomp filter, or without locked memory.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![expect(unsafe_code, reason = "a filter is put on between fork and exec")]

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// The binary, with `prepare` run in its process before it.
fn ringlink(args: &str, prepare: impl FnMut() -> io::Result<()> + Send + Sync + 'static) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringlink"));
    command.args(args.split_whitespace()).env_remove("RUST_LOG").stdin(Stdio::null());
    // SAFETY: what is run there are system calls alone: no memory is allocated, no lock taken.
    unsafe { command.pre_exec(prepare) };
    command
}

/// From now on the system call ends with `errno`, in this process and all it becomes.
fn refuse(call: libc::c_long, errno: i32) -> io::Result<()> {
    let op = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the system call is the first field of what a filter sees.
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, call as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        op(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: prctl(2) with this option takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
    // SAFETY: the program and its filter live until prctl(2) has copied them.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
}

fn lock_no_memory() -> io::Result<()> {
    const CAP_IPC_LOCK: libc::c_int = 14;
    // It fails for who is not root, and needs no taking away.
    // SAFETY: prctl(2) with this option takes numbers.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
    let limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the limit lives until setrlimit(2) has read it.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Its exit code, and what it wrote to both outputs.
fn end(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "it does not say '{word}': {text}");
    }
}

#[test]
fn a_refused_ring_ends_with_4_the_cause_and_the_remedy() {
    let cases = [
        (libc::EPERM, ["io_uring is forbidden", "kernel.io_uring_disabled=0", "seccomp-io_uring.json"]),
        (libc::ENOSYS, ["has no io_uring, or a sandbox hides it", "Podman", "seccomp-io_uring.json"]),
    ];
    for (errno, words) in cases {
        for driver in ["auto", "uring", "tokio-uring"] {
            let args = format!("run --listen 127.0.0.1:0 --driver {driver}");
            let (code, text) = end(ringlink(&args, move || refuse(libc::SYS_io_uring_setup, errno)));
            assert_eq!(code, Some(4), "{driver}: {text}");
            says(&text, &words);
        }
        let (code, text) = end(ringlink("doctor", move || refuse(libc::SYS_io_uring_setup, errno)));
        assert_eq!(code, Some(4), "{text}");
        says(&text, &["STOPS", "a node cannot run here", words[0], words[2]]);
        let (code, text) = end(ringlink("doctor --json", move || refuse(libc::SYS_io_uring_setup, errno)));
        assert_eq!(code, Some(4), "{text}");
        says(&text, &["\"verdict\":\"STOPS\"", "\"driver\":null", "\"channels\":0"]);
    }
}

#[test]
fn a_ring_that_cannot_be_entered_is_refused_as_well() {
    let enter = || refuse(libc::SYS_io_uring_enter, libc::EPERM);
    let (code, text) = end(ringlink("run --listen 127.0.0.1:0 --driver uring", enter));
    assert_eq!(code, Some(4), "{text}");
    says(&text, &["io_uring is forbidden", "seccomp-io_uring.json"]);
    assert!(!text.contains("stays allocated"), "{text}");
    let (code, text) = end(ringlink("run --listen 127.0.0.1:0", enter));
    assert_eq!(code, Some(4), "{text}");
    says(&text, &["can be set up here, and does not work", "io_uring_enter"]);
}

/// What the command says first, by which it runs; then it is killed, unless it has ended by itself.
fn first_line_and_end(mut command: Command) -> (String, Option<i32>, String) {
    let mut node = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut line, mut log) = (String::new(), String::new());
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
    if !line.is_empty() {
        node.kill().unwrap();
    }
    node.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    (line, node.wait().unwrap().code(), log)
}

/// As on a kernel without buffer rings.
#[test]
fn auto_takes_tokio_uring_where_the_native_driver_does_not_work_and_says_so() {
    for errno in [libc::EPERM, libc::EINVAL] {
        let register = move || refuse(libc::SYS_io_uring_register, errno);
        let command = ringlink("run --listen 127.0.0.1:0", register);
        let (line, _, log) = first_line_and_end(command);
        assert!(line.starts_with("listening tcp "), "{line}{log}");
        says(&log, &["driver tokio-uring: the native one does not work here"]);
        assert_eq!(log.lines().filter(|line| line.contains("driver")).count(), 1, "{log}");

        let (code, text) = end(ringlink("run --listen 127.0.0.1:0 --driver uring", register));
        assert_eq!(code, Some(4), "{text}");
        let (code, text) = end(ringlink("doctor", register));
        assert_eq!(code, Some(1), "{text}");
        says(&text, &["driver tokio-uring; descriptors for", "less"]);
    }
}

#[test]
fn without_locked_memory_the_limit_is_named() {
    for driver in ["uring", "tokio-uring"] {
        let args = format!("run --listen 127.0.0.1:0 --driver {driver}");
        let (line, code, log) = first_line_and_end(ringlink(&args, lock_no_memory));
        // From Linux 5.12 to 6.13 a ring was not charged to the limit.
        if !line.starts_with("listening tcp ") {
            assert_eq!(code, Some(4), "{log}");
            says(&log, &["RLIMIT_MEMLOCK", "--ulimit memlock=-1"]);
        }
    }
    let (code, text) = end(ringlink("doctor", lock_no_memory));
    assert!(code == Some(1) || code == Some(4), "{text}");
    says(&text, &["memlock", "LimitMEMLOCK="]);
}
