//! Every way a clean request can take to the image (`--io`, `--poll-us`, `memory:`) answers as every other does.

mod common;

use common::{DISCARD, Device, FLUSH, Guest, IN, IOERR, OK, OUT, pattern};
use vhost_blk::disk::{Disk, DiskOptions};
use vhost_blk::serve::Ending;
use vhost_blk::way::IoMode;

const WAYS: [(IoMode, u64); 4] = [(IoMode::Auto, 0), (IoMode::Sync, 30), (IoMode::Uring, 0), (IoMode::Uring, 30)];

#[test]
fn by_every_way_requests_are_answered_alike() {
    for (io, poll_us) in WAYS {
        let device = Device::start_with(64, "", |args| (args.io, args.poll_us) = (io, poll_us));
        let mut guest = Guest::connect(&device.socket, 1);
        let mut expected = pattern(64, 1);
        assert_eq!(guest.read(0, 64), (OK, 64 * 512 + 1, expected.clone()), "{io:?}");
        assert_eq!(guest.write(8, &pattern(2, 7)), (OK, 1));
        assert_eq!(guest.request(FLUSH, 0, &[], 0), (OK, 1, vec![]));
        assert_eq!(guest.range(DISCARD, 16, 8, 0), (OK, 1));
        assert_eq!(guest.read(8, 2), (OK, 1025, pattern(2, 7)));
        expected[8 * 512..10 * 512].copy_from_slice(&pattern(2, 7));
        expected[16 * 512..24 * 512].fill(0);
        assert_eq!(device.image_bytes(), expected);
        let (ending, record) = device.end();
        assert_eq!((ending, &record.last().expect("a trailer")["unanswered"]), (Ending::Clean, &0.into()));
    }
}

/// One kick for both: the read arrives while the write is with the host.
#[test]
fn a_read_behind_a_write_of_the_same_sectors_sees_it_and_the_last_of_two_writes_stays() {
    for (io, poll_us) in WAYS {
        let device = Device::start_with(2048, "", |args| (args.io, args.poll_us) = (io, poll_us));
        let mut guest = Guest::connect(&device.socket, 1);
        for round in 0..20 {
            let (first, second) = (pattern(16, 100 + round), pattern(16, 200 + round));
            let sent = [
                guest.queue_request(0, OUT, 64, &first, 0),
                guest.queue_request(0, IN, 72, &[], 8 * 512),
                guest.queue_request(0, OUT, 72, &second, 0),
                guest.queue_request(0, IN, 64, &[], 16 * 512),
            ];
            guest.kick(0);
            let mut heads: Vec<u16> = sent.iter().map(|_| guest.used(0).0).collect();
            heads.sort_unstable();
            let mut expected: Vec<u16> = sent.iter().map(|sent| sent.head).collect();
            expected.sort_unstable();
            assert_eq!(heads, expected, "each comes back once");
            assert!(sent.iter().all(|sent| guest.status(sent) == OK));
            assert_eq!(guest.data(&sent[1]), first[8 * 512..], "{io:?}: what was written just before");
            assert_eq!(guest.data(&sent[3]), [&first[..8 * 512], &second[..8 * 512]].concat());
            guest.forget_data();
        }
        assert_eq!(device.end().0, Ending::Clean);
    }
}

#[test]
fn an_image_that_was_truncated_is_the_hosts_fault_by_every_way() {
    for (io, poll_us) in WAYS {
        let device = Device::start_with(64, "", |args| (args.io, args.poll_us) = (io, poll_us));
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.write(60, &pattern(4, 3)).0, OK);
        let image = std::fs::File::options().write(true).open(&device.image).expect("opens");
        image.set_len(4096).expect("truncated");
        assert_eq!(guest.read(0, 8).0, OK);
        assert_eq!(guest.read(4, 8).0, IOERR, "{io:?}: half of it is not there");
        assert_eq!(guest.write(32, &pattern(8, 9)), (IOERR, 1));
        assert_eq!(guest.request(FLUSH, 0, &[], 0).0, IOERR);
        assert_eq!(image.metadata().expect("metadata").len(), 4096, "it was not grown again");
        let (ending, record) = device.end();
        assert!(matches!(ending, Ending::HostFailed(_)), "{ending:?}");
        let failed = record.iter().filter(|line| line["host_error"] == true).count();
        assert_eq!(failed, 3);
    }
}

#[test]
fn a_disk_in_memory_begins_with_zeroes_and_keeps_what_is_written() {
    for (io, poll_us) in WAYS {
        let device = Device::start_with(8, "", |args| {
            (args.io, args.poll_us, args.blk_file) = (io, poll_us, Some("memory:1M".into()));
        });
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.config(8), 2048u64.to_le_bytes());
        assert_eq!(guest.read(2040, 8), (OK, 4097, vec![0; 4096]));
        assert_eq!(guest.write(2040, &pattern(4, 5)), (OK, 1));
        assert_eq!(guest.request(FLUSH, 0, &[], 0).0, OK);
        assert_eq!(guest.read(2040, 4).2, pattern(4, 5));
        assert_eq!(device.image_bytes(), pattern(8, 1), "the file of that folder is another disk");
        assert_eq!(device.end().0, Ending::Clean);
    }
}

#[test]
fn a_size_that_is_none_is_refused_with_an_example() {
    for size in ["", "0", "1", "513", "1X", "1GB", "-1M", "99999999999G"] {
        let error = Disk::open(format!("memory:{size}").as_ref(), DiskOptions::default()).expect_err(size);
        assert!(error.to_string().contains("memory:512M"), "{size}: {error}");
    }
    let direct = DiskOptions { direct: true, ..Default::default() };
    assert!(Disk::open("memory:1M".as_ref(), direct).expect_err("refused").to_string().contains("--direct"));
}
