//! Which way a clean request takes to the image: a plain call in the queue's thread, or io_uring.
//!
//! A plain call is the fastest there is where it cannot wait, and stops the whole queue where it can. What waits depends
//! on the image: memory never does; the page cache takes a write, and gives a read at once or not at all (RWF_NOWAIT);
//! a disk without it always waits.

use clap::ValueEnum;

/// What the user asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IoMode {
    /// What is fastest for this image.
    #[default]
    Auto,
    /// Plain calls only. Answers come in the order of requests, and a slow disk stops its queue.
    Sync,
    /// io_uring only.
    Uring,
}

/// How one kind of request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A plain call.
    Plain,
    /// A plain call for what is in memory, io_uring for the rest.
    NowaitThenUring,
    /// io_uring.
    Uring,
}

/// What an image is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageTraits {
    /// All of it is in memory: tmpfs, or a `memory:` disk.
    pub in_memory: bool,
    /// RWF_NOWAIT reads work.
    pub nowait_reads: bool,
    /// A regular file, not a block device.
    pub regular: bool,
    /// Past the page cache.
    pub direct: bool,
}

/// How requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// Reads.
    pub read: Way,
    /// Writes.
    pub write: Way,
    /// Flushes.
    pub flush: Way,
}

impl Ways {
    /// Plain calls only.
    pub const PLAIN: Ways = Ways { read: Way::Plain, write: Way::Plain, flush: Way::Plain };

    /// The ways of an image.
    pub fn of(mode: IoMode, image: ImageTraits) -> Ways {
        let uring = Ways { read: Way::Uring, write: Way::Uring, flush: Way::Uring };
        match mode {
            IoMode::Sync => Ways::PLAIN,
            IoMode::Uring => uring,
            IoMode::Auto if image.in_memory => Ways::PLAIN,
            IoMode::Auto if image.direct => uring,
            IoMode::Auto => Ways {
                read: if image.nowait_reads { Way::NowaitThenUring } else { Way::Uring },
                write: if image.regular { Way::Plain } else { Way::Uring },
                flush: Way::Uring,
            },
        }
    }

    /// Whether any of them needs an io_uring.
    pub fn need_uring(&self) -> bool {
        *self != Ways::PLAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_gets_its_way() {
        let file = ImageTraits { in_memory: false, nowait_reads: true, regular: true, direct: false };
        let ways = |image| {
            let ways = Ways::of(IoMode::Auto, image);
            (ways.read, ways.write)
        };
        assert_eq!(ways(file), (Way::NowaitThenUring, Way::Plain));
        assert_eq!(ways(ImageTraits { in_memory: true, nowait_reads: false, ..file }), (Way::Plain, Way::Plain));
        assert_eq!(ways(ImageTraits { nowait_reads: false, ..file }), (Way::Uring, Way::Plain));
        assert_eq!(ways(ImageTraits { regular: false, ..file }), (Way::NowaitThenUring, Way::Uring));
        assert_eq!(ways(ImageTraits { direct: true, ..file }), (Way::Uring, Way::Uring));
        assert!(!Ways::of(IoMode::Sync, file).need_uring());
    }
}
