//! Processes that end with their test.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it. Its standard output can be [waited for](Self::line).
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Starts one that is told lines on its standard input.
    ///
    /// # Panics
    ///
    /// It does not start.
    #[must_use]
    pub fn start_told(command: &mut Command) -> (Self, ChildStdin) {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let input = child.stdin.take().expect("piped");
        (Self(child), input)
    }

    /// The CPU time of it and of the processes that it has started.
    ///
    /// # Panics
    ///
    /// This is not Linux.
    #[must_use]
    pub fn cpu_time(&self) -> Duration {
        let own = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).expect("Linux");
        let all = children.split_whitespace().filter_map(|child| child.parse().ok()).chain([own]);
        all.map(cpu_time).sum()
    }

    /// Waits for the next line that it prints.
    ///
    /// # Panics
    ///
    /// It ends without one.
    pub fn line(&mut self) -> String {
        let output = self.0.stdout.as_mut().expect("piped");
        let mut line = String::new();
        // A line at a time, and nothing more of what follows.
        let mut byte = [0];
        while std::io::Read::read(output, &mut byte).expect("readable") == 1 {
            if byte[0] == b'\n' {
                return line;
            }
            line.push(char::from(byte[0]));
        }
        panic!("the process ended and said no more than {line:?}: {:?}", self.0.wait());
    }

    /// The rest of what it prints, to the last line.
    ///
    /// # Panics
    ///
    /// It prints what is no text.
    pub fn rest(&mut self) -> Vec<String> {
        let output = self.0.stdout.as_mut().expect("piped");
        BufReader::new(output).lines().map(|line| line.expect("text")).collect()
    }

    /// Sends it SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal: `STOP`.
    ///
    /// # Panics
    ///
    /// There is no program `kill`.
    pub fn signal(&self, name: &str) {
        let mut kill = Command::new("kill");
        let status = kill.args(["-s", name]).arg(self.0.id().to_string()).status().expect("kill runs");
        assert!(status.success(), "it is there to be told");
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// What it has in memory, in KiB.
    ///
    /// # Panics
    ///
    /// This is not Linux.
    #[must_use]
    pub fn resident(&self) -> u64 {
        crate::resident(&self.0.id().to_string())
    }

    /// Kills it, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// It cannot be killed.
    pub fn kill(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("gone");
    }

    /// Waits for its end. The exit status, if it has one.
    ///
    /// # Panics
    ///
    /// It does not end within 30 s.
    pub fn end(&mut self) -> Option<i32> {
        let begin = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().expect("a child") {
                return status.code();
            }
            assert!(begin.elapsed() < Duration::from_secs(30), "the process does not end");
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

/// Of a process; nothing of one that has ended.
fn cpu_time(process: u32) -> Duration {
    // Of the second, which is what Linux has told programs since it began.
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // Its name may have spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks = after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u32>().ok());
    TICK * ticks.sum::<u32>()
}
