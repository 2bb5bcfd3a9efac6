//! What `/proc` says of a process.
use crate::ffi::os;
use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// A few fields of `/proc/PID/stat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `T`, `Z` …
    pub state: char,
    /// The parent.
    pub parent: u32,
    /// In clock ticks since boot; with the id it names the process for good.
    pub start_time: u64,
    /// Where its code, stack, heap and arguments begin: changes when the process becomes another program, because
    /// addresses are drawn anew. All 0 where we may not look.
    pub image: [u64; 4],
}

impl Stat {
    /// It has ended: a zombie, or one that is being taken away just now.
    fn ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }
}

/// Reads it, if there is such a process.
pub fn stat(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The second field is the name in brackets, which may hold anything, brackets and spaces included.
    let rest: Vec<&str> = text.rsplit_once(')')?.1.split_ascii_whitespace().collect();
    let number = |field: usize| rest.get(field - 3).and_then(|f| f.parse::<u64>().ok());
    Some(Stat {
        state: rest.first()?.chars().next()?,
        parent: u32::try_from(number(4)?).ok()?,
        start_time: number(22)?,
        image: [26, 28, 47, 48].map(|f| number(f).unwrap_or(0)),
    })
}

/// Whether the process that `pid` and `start_time` name is alive; also where there is no more than its id to tell.
pub fn is_alive(pid: u32, start_time: u64) -> bool {
    use rustix::process::{Pid, test_kill_process};
    let there = || {
        i32::try_from(pid).ok().and_then(Pid::from_raw).is_some_and(|pid| {
            // Someone else's process is there too.
            test_kill_process(pid) != Err(rustix::io::Errno::SRCH)
        })
    };
    is_that_one(start_time, there, || stat(pid))
}

/// Asked once more where `/proc` tells nothing: it may have ended between the two questions.
fn is_that_one(start_time: u64, there: impl Fn() -> bool, stat: impl FnOnce() -> Option<Stat>) -> bool {
    there() && stat().map_or_else(&there, |stat| stat.start_time == start_time && !stat.ended())
}

fn pidfd_flags() -> rustix::process::PidfdFlags {
    rustix::process::PidfdFlags::NONBLOCK
}

/// A descriptor of the process that `pid` and `start_time` name, if it is alive.
pub fn open_pidfd(pid: u32, start_time: u64) -> Option<OwnedFd> {
    let pid_t = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    let pidfd = rustix::process::pidfd_open(pid_t, pidfd_flags()).ok()?;
    // Read after it was opened: if the process is the one that we mean, the descriptor is of that one.
    stat(pid).filter(|s| s.start_time == start_time && !s.ended()).map(|_| pidfd)
}

/// Kills the process that `pid` and `start_time` name; one that has ended already is an error.
pub fn kill(pid: u32, start_time: u64) -> std::io::Result<()> {
    let pidfd = open_pidfd(pid, start_time).ok_or(rustix::io::Errno::SRCH)?;
    Ok(rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL)?)
}

/// Waits until the process has ended.
pub async fn until_end(pidfd: OwnedFd) {
    let second = pidfd.try_clone();
    match os::awaitable(pidfd, tokio::io::Interest::READABLE) {
        Ok(fd) => {
            drop(second);
            let _ = fd.readable().await;
        }
        Err(error) => {
            // No room in epoll: look now and then instead.
            tracing::warn!("a process can't be watched: {error}");
            let Ok(pidfd) = second else { return };
            use rustix::event::{PollFd, PollFlags, poll};
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            while poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&none)).is_ok_and(|n| n == 0) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Its command line, arguments separated by spaces; its name in brackets if there is none.
pub fn command(pid: u32) -> Option<String> {
    let mut bytes = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    bytes.truncate(4096);
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    if bytes.is_empty() {
        return fs::read_to_string(format!("/proc/{pid}/comm")).ok().map(|name| format!("[{}]", name.trim_end()));
    }
    let text = String::from_utf8_lossy(&bytes);
    Some(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

/// Its user.
pub fn uid(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|m| m.uid())
}

/// What is mounted at `place` for it: the path within its file system.
pub fn mounted_at(pid: u32, place: &Path) -> Option<String> {
    parse_mounts(&fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?, place)
}

fn parse_mounts(text: &str, place: &Path) -> Option<String> {
    // The fourth field is the root of the mount, the fifth its place; the last mount lies over those before it.
    let fields = text.lines().rev().map(|line| line.split(' ').skip(3));
    fields
        .filter_map(|mut f| Some((f.next()?, f.next()?)))
        .find(|(_, at)| Path::new(at) == place)
        .map(|(root, _)| root.into())
}

/// The inode of its PID namespace; `None` where we may not look.
pub fn pid_namespace(pid: u32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}/ns/pid")).ok().and_then(|m| u32::try_from(m.ino()).ok())
}

/// The value of an environment variable that it was started with.
pub fn variable(pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let prefix = format!("{name}=");
    bytes
        .split(|b| *b == 0)
        .find_map(|entry| entry.strip_prefix(prefix.as_bytes()))
        .map(|value| String::from_utf8_lossy(value).into_owned())
}

/// Seconds since boot, in clock ticks as [`Stat::start_time`] counts them.
pub fn ticks_now() -> Option<u64> {
    let text = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = text.split(' ').next()?.parse().ok()?;
    Some((seconds * rustix::param::clock_ticks_per_second() as f64) as u64)
}

/// When a process that started at `start_time` did so, RFC 3339.
pub fn started_at(start_time: u64) -> Option<String> {
    let ago = ticks_now()?.saturating_sub(start_time) / rustix::param::clock_ticks_per_second();
    let now = jiff::Timestamp::now();
    let then = now.checked_sub(jiff::SignedDuration::from_secs(i64::try_from(ago).ok()?)).ok()?;
    then.round(jiff::Unit::Millisecond).ok().map(|t| t.to_string())
}

/// The users' names by number; of two with one number, the first.
pub fn user_names() -> HashMap<u32, String> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    users(&passwd).map(|(name, uid)| (uid, name.to_owned())).rev().collect()
}

/// A user's number, from a name or a number.
pub fn user_id(text: &str) -> Option<u32> {
    if let Ok(uid) = text.parse() {
        return (uid != u32::MAX).then_some(uid);
    }
    users(&fs::read_to_string("/etc/passwd").ok()?).find(|(name, _)| *name == text).map(|(_, uid)| uid)
}

fn users(passwd: &str) -> impl DoubleEndedIterator<Item = (&str, u32)> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse().ok()?))
    })
}

/// The machine's memory in bytes.
pub fn machine_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Now, RFC 3339 in UTC with milliseconds.
pub fn now() -> String {
    stamp(jiff::Timestamp::now())
}

/// Always with three digits behind the point, so that the order of texts is that of times.
fn stamp(at: jiff::Timestamp) -> String {
    format!("{:.3}", at.round(jiff::Unit::Millisecond).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_sort_as_texts() {
        let at = |ms: i64| stamp(jiff::Timestamp::from_millisecond(1_790_000_000_000 + ms).unwrap());
        assert_eq!([at(0), at(690), at(691)].map(|text| text[20..].to_owned()), ["000Z", "690Z", "691Z"]);
        assert!(at(690) < at(691) && at(999) < at(1000));
    }

    #[test]
    fn stat_is_read_whatever_the_name_holds() {
        // Fields 3 to 52, those that are read with values of their own.
        let field = |f: u32| match f {
            3 => "S".to_owned(),
            4 => "7".to_owned(),
            8 => "-1".to_owned(),
            22 | 26 | 28 | 47 | 48 => (f * 100).to_string(),
            _ => "0".to_owned(),
        };
        let fields: Vec<String> = (3..=52).map(field).collect();
        let line = format!("42 (a) b (c) {}\n", fields.join(" "));
        assert_eq!(
            parse_stat(&line),
            Some(Stat { state: 'S', parent: 7, start_time: 2200, image: [2600, 2800, 4700, 4800] })
        );
        for bad in ["", "42", "42 (x)", "42 (x) S", "42 (x) S a b c"] {
            assert_eq!(parse_stat(bad), None);
        }
    }

    #[test]
    fn a_process_that_ends_between_two_questions_is_not_alive() {
        let stat = |state| Some(Stat { state, parent: 1, start_time: 7, image: [0; 4] });
        let asked = std::cell::Cell::new(0);
        // There at the first question, and taken away by its parent before `/proc` was read.
        let once = || asked.replace(asked.get() + 1) == 0;
        assert!(!is_that_one(7, once, || None));
        assert_eq!(asked.get(), 2);
        // Where `/proc` shows nothing of others, there is no more than the id.
        assert!(is_that_one(7, || true, || None));
        for (state, alive) in
            [('S', true), ('R', true), ('D', true), ('T', true), ('Z', false), ('X', false), ('x', false)]
        {
            assert_eq!(is_that_one(7, || true, || stat(state)), alive, "{state}");
        }
        assert!(!is_that_one(8, || true, || stat('S')), "another process has the id");
        assert!(!is_that_one(7, || false, || stat('S')));
    }

    #[test]
    fn the_uppermost_mount_at_a_place_is_found() {
        let text = "30 1 0:5 / / rw - tmpfs tmpfs rw\n\
                    31 30 0:9 /run/slices/SLICE-1/socket /run/cleave/slice ro,nosuid - tmpfs tmpfs rw\n\
                    32 30 0:9 /run/slices/SLICE-2/socket /run/cleave/slice ro,nosuid - tmpfs tmpfs rw\n";
        let at = |place: &str| parse_mounts(text, Path::new(place));
        assert_eq!(at("/run/cleave/slice").as_deref(), Some("/run/slices/SLICE-2/socket"));
        assert_eq!(at("/").as_deref(), Some("/"));
        assert_eq!(at("/run/cleave"), None);
    }

    #[test]
    fn this_process_is_found() {
        let pid = std::process::id();
        let stat = stat(pid).unwrap();
        assert_eq!(stat.parent, std::os::unix::process::parent_id());
        assert_ne!(stat.image[1], 0);
        assert!(stat.start_time <= ticks_now().unwrap());
        assert!(is_alive(pid, stat.start_time) && !is_alive(pid, stat.start_time + 1));
        assert!(!is_alive(0, 0) && !is_alive(u32::MAX, 0));
        assert!(command(pid).unwrap().contains("cleave_daemon"));
        assert_eq!(uid(pid), Some(rustix::process::getuid().as_raw()));
        let link = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
        assert_eq!(link, format!("pid:[{}]", pid_namespace(pid).unwrap()));
        assert!(started_at(stat.start_time).unwrap().ends_with('Z'));
        assert_eq!(user_id("root"), Some(0));
        assert_eq!(user_names()[&0], "root");
        assert_eq!(user_id("no-such-user"), None);
        assert!(machine_memory().unwrap() > 1 << 20);
    }
}
