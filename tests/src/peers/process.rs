//! Child processes that end with their test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// A child process, killed on drop.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a process, with its standard output for [`line`](Self::line) and [`rest`](Self::rest).
    ///
    /// # Panics
    ///
    /// Panics if the process does not start.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Starts a process, and returns it with its standard input.
    ///
    /// # Panics
    ///
    /// Panics if the process does not start.
    #[must_use]
    pub fn start_with_input(command: &mut Command) -> (Self, ChildStdin) {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take().expect("piped");
        (Self(child), input)
    }

    /// CPU time of the process and of its children.
    ///
    /// # Panics
    ///
    /// Panics on systems other than Linux.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let own = self.0.id();
        let children =
            std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).expect("/proc of Linux");
        let all = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([own]);
        all.map(cpu_time).sum()
    }

    /// Waits for the next line of standard output.
    ///
    /// # Panics
    ///
    /// Panics if the process ends before that.
    pub fn line(&mut self) -> String {
        let output = self.0.stdout.as_mut().expect("piped");
        let mut line = String::new();
        // Byte by byte, because a buffer would lose what follows the line.
        let mut byte = [0];
        while std::io::Read::read(output, &mut byte).expect("readable") == 1 {
            if byte[0] == b'\n' {
                return line;
            }
            line.push(char::from(byte[0]));
        }
        panic!("the process ended after printing {line:?}: {:?}", self.0.wait());
    }

    /// Returns the remaining lines of standard output, once the process has closed it.
    ///
    /// # Panics
    ///
    /// Panics if the output is not UTF-8.
    pub fn rest(&mut self) -> Vec<String> {
        let output = self.0.stdout.as_mut().expect("piped");
        BufReader::new(output).lines().map(|line| line.expect("UTF-8")).collect()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal by its name, such as `STOP`.
    ///
    /// # Panics
    ///
    /// Panics if `kill` cannot be run, or the process does not exist.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args(["-s", name]).arg(self.0.id().to_string()).status().expect("kill runs");
        assert!(status.success(), "cannot send SIG{name} to {}", self.0.id());
    }

    /// Process ID.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Resident memory, in KiB.
    ///
    /// # Panics
    ///
    /// Panics on systems other than Linux.
    #[must_use]
    pub fn resident(&self) -> u64 {
        crate::resident(&self.0.id().to_string())
    }

    /// Kills the process and waits until it has ended.
    ///
    /// # Panics
    ///
    /// Panics if the process cannot be killed.
    pub fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("ended");
    }

    /// Waits until the process ends. Returns its exit code, or `None` if a signal ended it.
    ///
    /// # Panics
    ///
    /// Panics if the process does not end within 30 s.
    pub fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(start.elapsed() < Duration::from_secs(30), "the process does not end within 30 s");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// CPU time of one process, with its threads that have ended; zero if the process has ended. By its clock: the ticks of
/// `/proc/PID/stat` are a twentieth of what a proxy takes in a second at a low load.
#[allow(unsafe_code, reason = "no safe interface has the clock of another process")]
fn cpu_time(process: u32) -> Duration {
    let Ok(process) = libc::pid_t::try_from(process) else { return Duration::ZERO };
    let mut clock: libc::clockid_t = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both write only to what they are given, for the time of the call.
    let failed = unsafe {
        libc::clock_getcpuclockid(process, &raw mut clock) != 0
            || libc::clock_gettime(clock, &raw mut time) != 0
    };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    if failed { Duration::ZERO } else { Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)) }
}
