//! A driver without a guest: the `blkio` crate's virtio-blk-vhost-user driver, kept busy at a given depth.
//!
//! It knows no server and no other member. What it does between two requests is as little as possible, since client
//! and server share a CPU where they are compared: no clock per request, no check of the data (tests do that elsewhere).

use std::mem::MaybeUninit;
use std::path::Path;
use std::time::{Duration, Instant};

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use nix::time::{ClockId, clock_gettime};

/// Most requests of one queue at once.
pub const MAX_DEPTH: usize = 256;

/// Completions fetched at once.
const FETCH: usize = 64;

/// What went wrong with a server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The driver could not be set up.
    #[error("cannot {doing}: {source}")]
    Setup {
        /// What was tried.
        doing: &'static str,
        /// What the driver said.
        source: blkio::Error,
    },
    /// A request came back with an error.
    #[error("the server answered a {op} with errno {errno}")]
    Request {
        /// read or write
        op: &'static str,
        /// Positive.
        errno: i32,
    },
    /// Nothing came back for too long.
    #[error("no answer for {seconds} s with {waiting} requests under way")]
    Stuck {
        /// How long we waited.
        seconds: u64,
        /// How many are under way.
        waiting: usize,
    },
    /// The job does not fit the disk or the driver.
    #[error("{0}")]
    Job(String),
}

/// What each request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Reads.
    Read,
    /// Writes.
    Write,
}

impl Op {
    /// For people.
    pub fn word(self) -> &'static str {
        match self {
            Op::Read => "read",
            Op::Write => "write",
        }
    }
}

/// Where requests lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Anywhere, in whole blocks.
    Random,
    /// One after the other, each queue in its own part of the disk.
    Sequential,
}

/// What to do, on every queue.
#[derive(Clone, Copy, Debug)]
pub struct Job {
    /// Read or write.
    pub op: Op,
    /// Where.
    pub place: Place,
    /// Length of each request.
    pub block_bytes: usize,
    /// Requests under way at once.
    pub depth: usize,
    /// Only this much of the disk, from its beginning.
    pub span_bytes: u64,
    /// How long.
    pub time: Duration,
    /// Of the random places.
    pub seed: u64,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Requests answered.
    pub requests: u64,
    /// From the first to the last.
    pub elapsed: Duration,
    /// CPU time of the client's own threads.
    pub client_cpu: Duration,
}

/// A connection to a server.
pub struct Client {
    // Before `blkio`: queues go first.
    queues: Vec<Blkioq>,
    _blkio: Blkio,
    memory: usize,
    bytes_per_queue: usize,
    capacity_bytes: u64,
}

/// Longer than any server takes that will answer at all.
const PATIENCE: Duration = Duration::from_secs(30);

fn setup<T>(doing: &'static str, result: blkio::Result<T>) -> Result<T, Error> {
    result.map_err(|source| Error::Setup { doing, source })
}

impl Client {
    /// Connects and starts so many queues, with room for so many requests of this length on each.
    pub fn connect(socket: &Path, queues: usize, depth: usize, block_bytes: usize) -> Result<Client, Error> {
        let path = socket.to_str().ok_or_else(|| Error::Job("the socket's path is not UTF-8".into()))?;
        if depth == 0 || depth > MAX_DEPTH {
            return Err(Error::Job(format!("depth {depth} is not within 1..={MAX_DEPTH}")));
        }
        let mut blkio = setup("find the driver", Blkio::new("virtio-blk-vhost-user"))?;
        setup("set the path", blkio.set_str("path", path))?;
        setup("connect", blkio.connect())?;
        setup("set num-queues", blkio.set_i32("num-queues", queues as i32))?;
        // Header, data and status take three descriptors of a request, and 256 is the driver's own default.
        let ring = (4 * depth).next_power_of_two().max(256);
        setup("set queue-size", blkio.set_i32("queue-size", ring as i32))?;
        let started = setup("start", blkio.start())?;
        let bytes_per_queue = depth * block_bytes;
        let region = setup("make memory", blkio.alloc_mem_region((queues * bytes_per_queue).next_multiple_of(4096)))?;
        setup("share memory", blkio.map_mem_region(&region))?;
        let capacity_bytes = setup("ask the capacity", blkio.get_u64("capacity"))?;
        Ok(Client { queues: started.queues, _blkio: blkio, memory: region.addr, bytes_per_queue, capacity_bytes })
    }

    /// Keeps every queue busy, each from a thread of its own.
    pub fn run(&mut self, job: &Job) -> Result<Done, Error> {
        let blocks = self.capacity_bytes.min(job.span_bytes) / job.block_bytes as u64;
        if job.depth * job.block_bytes > self.bytes_per_queue || blocks < self.queues.len() as u64 {
            return Err(Error::Job("the job is larger than the client was made for, or than the disk".into()));
        }
        let (memory, step, parts) = (self.memory, self.bytes_per_queue, self.queues.len() as u64);
        let begun = Instant::now();
        let each = |(i, queue): (usize, &mut Blkioq)| {
            let places = Places::new(job, i as u64, parts, blocks);
            Worker { queue, job, places, memory: memory + i * step, until: begun + job.time }.run()
        };
        let all: Vec<Result<Done, Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                self.queues.iter_mut().enumerate().map(|queue| scope.spawn(move || each(queue))).collect();
            threads.into_iter().map(|thread| thread.join().expect("a client thread does not panic")).collect()
        });
        let mut total = Done { elapsed: begun.elapsed(), ..Done::default() };
        for done in all {
            let done = done?;
            total.requests += done.requests;
            total.client_cpu += done.client_cpu;
        }
        Ok(total)
    }
}

/// Where the next request of one queue lies.
struct Places {
    place: Place,
    state: u64,
    first: u64,
    blocks: u64,
}

impl Places {
    fn new(job: &Job, queue: u64, queues: u64, blocks: u64) -> Places {
        match job.place {
            Place::Random => Places { place: job.place, state: job.seed ^ ((queue + 1) << 32), first: 0, blocks },
            Place::Sequential => {
                let part = blocks / queues;
                Places { place: job.place, state: 0, first: queue * part, blocks: part }
            }
        }
    }

    /// SplitMix64, or one more.
    fn next_block(&mut self) -> u64 {
        if self.place == Place::Sequential {
            self.state += 1;
            return self.first + (self.state - 1) % self.blocks;
        }
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((u128::from(z ^ (z >> 31)) * u128::from(self.blocks)) >> 64) as u64
    }
}

/// One queue's loop.
struct Worker<'a> {
    queue: &'a mut Blkioq,
    job: &'a Job,
    places: Places,
    /// Address of the queue's buffers, one per request under way.
    memory: usize,
    until: Instant,
}

impl Worker<'_> {
    fn run(mut self) -> Result<Done, Error> {
        let cpu = thread_cpu();
        let mut done = Done::default();
        let mut completions = [const { MaybeUninit::<Completion>::uninit() }; FETCH];
        (0..self.job.depth).for_each(|slot| self.submit(slot));
        let mut waiting = self.job.depth;
        while waiting > 0 {
            let fetched = self.fetch(&mut completions, waiting)?;
            waiting -= fetched;
            done.requests += fetched as u64;
            let over = Instant::now() >= self.until;
            for completion in &completions[..fetched] {
                let (slot, ret) = look(completion);
                if ret < 0 {
                    return Err(Error::Request { op: self.job.op.word(), errno: -ret });
                }
                if !over {
                    self.submit(slot);
                    waiting += 1;
                }
            }
        }
        done.client_cpu = thread_cpu().saturating_sub(cpu);
        Ok(done)
    }

    fn fetch(&mut self, completions: &mut [MaybeUninit<Completion>], waiting: usize) -> Result<usize, Error> {
        let mut patience = PATIENCE;
        let fetched = setup("do I/O", self.queue.do_io(completions, 1, Some(&mut patience), None))?;
        if fetched == 0 {
            return Err(Error::Stuck { seconds: PATIENCE.as_secs(), waiting });
        }
        Ok(fetched)
    }

    fn submit(&mut self, slot: usize) {
        let bytes = self.job.block_bytes;
        let offset = self.places.next_block() * bytes as u64;
        let buffer = (self.memory + slot * bytes) as *mut u8;
        match self.job.op {
            Op::Read => self.queue.read(offset, buffer, bytes, slot, ReqFlags::empty()),
            Op::Write => self.queue.write(offset, buffer, bytes, slot, ReqFlags::empty()),
        }
    }
}

fn thread_cpu() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from).unwrap_or_default()
}

/// Whose completion it is, and what came of it.
#[allow(unsafe_code, reason = "do_io says how many completions it has filled")]
fn look(completion: &MaybeUninit<Completion>) -> (usize, i32) {
    // SAFETY: the caller looks at those only that `do_io` has counted as filled.
    let completion = unsafe { completion.assume_init_ref() };
    (completion.user_data, completion.ret)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(place: Place) -> Job {
        Job { op: Op::Read, place, block_bytes: 4096, depth: 1, span_bytes: u64::MAX, time: Duration::ZERO, seed: 7 }
    }

    #[test]
    fn random_places_lie_on_the_disk_and_reach_its_ends() {
        let mut places = Places::new(&job(Place::Random), 0, 1, 64);
        let seen: std::collections::BTreeSet<u64> = (0..10_000).map(|_| places.next_block()).collect();
        assert_eq!(seen, (0..64).collect());
    }

    #[test]
    fn sequential_queues_go_round_in_their_own_parts() {
        let mut places = Places::new(&job(Place::Sequential), 1, 2, 8);
        let seen: Vec<u64> = (0..6).map(|_| places.next_block()).collect();
        assert_eq!(seen, [4, 5, 6, 7, 4, 5]);
    }

    #[test]
    fn a_server_that_is_not_there_is_said() {
        let Err(error) = Client::connect(Path::new("/nonexistent/socket"), 1, 1, 4096) else { panic!("it connected") };
        assert!(error.to_string().starts_with("cannot connect"), "{error}");
    }
}
