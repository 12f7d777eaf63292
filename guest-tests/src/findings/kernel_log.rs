//! What the guest's kernel says of itself.

/// Beginnings of sentences by which a kernel says that something is wrong with itself. Whatever a disk does, none may come.
const GRAVE: &[&str] = &[
    "BUG:",
    "kernel BUG at",
    "WARNING:",
    "Oops:",
    "general protection fault",
    "Kernel panic",
    "blocked for more than",
    "soft lockup",
    "hard LOCKUP",
    "KASAN:",
    "UBSAN:",
    "KCSAN:",
    "inconsistent lock state",
    "possible circular locking dependency",
    "possible recursive locking",
    "suspicious RCU usage",
    "stack segment",
    "double fault",
    "divide error",
    "refcount_t:",
    "list_add corruption",
    "list_del corruption",
];

/// … and by which RCU says that a CPU was not heard of. Under QEMU's translator on a busy machine that is the host's doing: a guest that
/// goes on to its end has shown nothing by it. One that did not has.
const OF_RCU: &[&str] = &["self-detected stall", "detected stalls on CPUs", "detected expedited stalls"];

/// … and with the file system. A failed data write alone is none of them: ext4 says that as a warning, and it is true.
const OF_THE_FILE_SYSTEM: &[&str] = &[
    "EXT4-fs error",
    "EXT4-fs (vda): failed to convert unwritten extents",
    "potential data loss",
    "Data will be lost",
    "orphan list check failed",
    "Aborting journal",
    "JBD2: I/O error",
    "JBD2: Error",
];

/// The lines of a kernel log that are complaints, those about the kernel itself first. `hung`: the guest did not come to its end.
pub fn complaints(log: &str, hung: bool) -> Vec<&str> {
    let of = |words: &'static [&str]| log.lines().filter(move |line| has(line, words));
    let of_rcu: &[&str] = if hung { OF_RCU } else { &[] };
    of(GRAVE).chain(of(of_rcu)).chain(of(OF_THE_FILE_SYSTEM)).collect()
}

/// A kernel that had too little time says that it stood still; that tells least of all.
const STALLS: &[&str] = &["soft lockup", "hard LOCKUP"];

/// Whether a line says no more than that the kernel stood still.
pub fn is_stall(line: &str) -> bool {
    has(line, OF_RCU) || has(line, STALLS)
}

/// Whether a complaint is about the kernel itself.
pub fn is_grave(complaint: &str) -> bool {
    has(complaint, GRAVE) || is_stall(complaint)
}

fn has(line: &str, words: &[&str]) -> bool {
    words.iter().any(|words| line.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_data_write_is_no_complaint_and_a_damaged_file_system_is() {
        let log = "\
[    1.2] EXT4-fs (vda): mounted filesystem with ordered data mode. Quota mode: none.
[    2.0] blk_update_request: I/O error, dev vda, sector 35264 op 0x1:(WRITE) flags 0x4000 phys_seg 126 prio class 2
[    2.0] EXT4-fs warning (device vda): ext4_end_bio:344: I/O error 10 writing to inode 12 starting block 4535)
[    2.1] EXT4-fs error (device vda): ext4_lookup:1785: inode #2: comm init: deleted inode referenced: 13
[    2.2] WARNING: CPU: 0 PID: 9 at fs/ext4/page-io.c:155 ext4_release_io_end+0xf0/0x100";
        let found = complaints(log, false);
        assert_eq!(found.len(), 2);
        assert!(found[0].contains("WARNING") && found[1].contains("EXT4-fs error"));
        assert!(is_grave(found[0]) && !is_grave(found[1]));
    }

    #[test]
    fn a_stall_of_rcu_is_a_complaint_of_a_guest_that_hung_alone() {
        let log = "\
[   63.4] rcu: INFO: rcu_preempt self-detected stall on CPU
[   63.4] rcu: INFO: rcu_sched detected stalls on CPUs/tasks:
[   71.0] rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 0-... } 21 jiffies s: 105 root: 0x1/.";
        assert_eq!(complaints(log, false), [""; 0]);
        assert_eq!(complaints(log, true).len(), 3);
        assert!(complaints(log, true).into_iter().all(is_grave));
    }

    #[test]
    fn lockups_sanitizers_and_lockdep_are_grave_whatever_they_begin_with() {
        let lines = [
            "[   28.1] watchdog: BUG: soft lockup - CPU#0 stuck for 22s! [kworker/0:1:12]",
            "[   12.0] INFO: task init:1 blocked for more than 120 seconds.",
            "[    3.1] BUG: KASAN: slab-use-after-free in ext4_put_io_end+0x1c/0x90",
            "[    3.1] UBSAN: array-index-out-of-bounds in fs/ext4/extents.c:1234:5",
            "[    4.2] WARNING: possible circular locking dependency detected",
            "[    4.2] [ INFO: possible recursive locking detected ]",
            "[    5.0] EXT4-fs (vda): This should not happen!! Data will be lost",
        ];
        let found = complaints(&lines.join("\n"), false).len();
        assert_eq!(found, lines.len());
        assert_eq!(lines.iter().filter(|line| is_grave(line)).count(), lines.len() - 1);
    }
}
