//! Random requests against a disk in memory: every answer, every byte read, and the image at the end.

mod common;

use common::*;
use proptest::prelude::*;

const SECTORS: u64 = 40;

#[derive(Clone, Debug)]
enum Step {
    Read { sector: u64, sectors: u64 },
    Write { sector: u64, sectors: u64, seed: u8 },
    Zero { sector: u64, sectors: u64, discard: bool },
    Flush,
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    // Past the end, and nothing at all, are part of it.
    let range = (0..SECTORS + 4, 0..12u64);
    prop_oneof![
        4 => range.clone().prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
        4 => (range.clone(), any::<u8>()).prop_map(|((sector, sectors), seed)| Step::Write { sector, sectors, seed }),
        2 => (range, any::<bool>()).prop_map(|((sector, sectors), discard)| Step::Zero { sector, sectors, discard }),
        1 => Just(Step::Flush),
        1 => Just(Step::Reconnect),
    ]
}

/// What is no request comes back with length 0; what lies beyond the end is one, and its status byte is written.
fn refused(sectors: u64) -> (u8, u32) {
    (IOERR, u32::from(sectors > 0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_device_and_the_model_agree(
        steps in proptest::collection::vec(step(), 1..40),
        lost in proptest::collection::vec(1..12u32, 0..3),
    ) {
        // Lost writes: the guest goes on reading the model's past, the image holds what was claimed.
        let lost: std::collections::BTreeSet<u32> = lost.into_iter().collect();
        let script = format!(
            r#"{{"faultscript":1,"rules":[{{"id":"l","match":{{"op":"write"}},"trigger":{{"nth":{:?}}},"action":{{"lose":{{}}}}}}]}}"#,
            lost.iter().collect::<Vec<_>>(),
        );
        let script = if lost.is_empty() { String::new() } else { script };
        let device = Device::start(SECTORS, &script);
        let mut guest = Guest::connect(&device.socket, 1);
        let (mut visible, mut image) = (pattern(SECTORS, 1), pattern(SECTORS, 1));
        let mut writes = 0;
        let fits = |sector: u64, sectors: u64| sectors > 0 && sector + sectors <= SECTORS;
        let span = |sector: u64, sectors: u64| sector as usize * 512..(sector + sectors) as usize * 512;
        for step in &steps {
            match *step {
                Step::Read { sector, sectors } => {
                    let (status, used_len, data) = guest.read(sector, sectors as usize);
                    if fits(sector, sectors) {
                        prop_assert_eq!((status, used_len), (OK, sectors as u32 * 512 + 1));
                        prop_assert_eq!(&data[..], &visible[span(sector, sectors)]);
                    } else {
                        prop_assert_eq!((status, used_len), refused(sectors));
                    }
                }
                Step::Write { sector, sectors, seed } => {
                    let data = pattern(sectors, seed);
                    let answer = guest.write(sector, &data);
                    if !fits(sector, sectors) {
                        prop_assert_eq!(answer, refused(sectors));
                        continue;
                    }
                    prop_assert_eq!(answer, (OK, 1));
                    writes += 1;
                    image[span(sector, sectors)].copy_from_slice(&data);
                    if !lost.contains(&writes) {
                        visible[span(sector, sectors)].copy_from_slice(&data);
                    }
                }
                Step::Zero { sector, sectors, discard } => {
                    let kind = if discard { DISCARD } else { WRITE_ZEROES };
                    let answer = guest.range(kind, sector, sectors as u32, 0);
                    if !fits(sector, sectors) {
                        prop_assert_eq!(answer, refused(sectors));
                        continue;
                    }
                    prop_assert_eq!(answer, (OK, 1));
                    image[span(sector, sectors)].fill(0);
                    visible[span(sector, sectors)].fill(0);
                }
                Step::Flush => prop_assert_eq!(guest.request(FLUSH, 0, &[], 0).0, OK),
                Step::Reconnect => {
                    drop(guest);
                    guest = Guest::connect(&device.socket, 1);
                }
            }
        }
        prop_assert_eq!(device.image_bytes(), image);
        prop_assert_eq!(device.end().0, vhost_blk::serve::Ending::Clean);
    }
}
