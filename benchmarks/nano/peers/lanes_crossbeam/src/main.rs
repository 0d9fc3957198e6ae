//! A round of each of crossbeam's queues: the loops of lanes_rounds.h.
use crossbeam::channel::bounded;
use crossbeam::queue::{ArrayQueue, SegQueue};
use std::hint::spin_loop;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Instant;

const CAPACITY: usize = 4096;
const LINES: u64 = 20_000;

#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Line([u64; 8]);

extern "C" {
    fn sched_getaffinity(pid: i32, size: usize, mask: *mut u64) -> i32;
    fn sched_setaffinity(pid: i32, size: usize, mask: *const u64) -> i32;
    fn getrusage(who: i32, usage: *mut i64) -> i32;
}

fn two_cpus() -> [usize; 2] {
    let mut mask = [0u64; 16];
    unsafe { sched_getaffinity(0, 128, mask.as_mut_ptr()) };
    let found: Vec<usize> = (0..1024).filter(|cpu| mask[cpu / 64] >> (cpu % 64) & 1 == 1).take(2).collect();
    [found[0], found[1]]
}

fn settle_on(cpu: usize, arrived: &AtomicU64) {
    let mut mask = [0u64; 16];
    mask[cpu / 64] = 1 << (cpu % 64);
    unsafe { sched_setaffinity(0, 128, mask.as_ptr()) };
    arrived.fetch_add(1, Ordering::AcqRel);
    while arrived.load(Ordering::Acquire) < 2 {
        spin_loop();
    }
}

/// ru_nivcsw of this thread: the last of the 18 words of struct rusage.
fn preemptions() -> i64 {
    let mut usage = [0i64; 18];
    unsafe { getrusage(1, usage.as_mut_ptr()) };
    usage[17]
}

fn wait_until(mut done: impl FnMut() -> bool) {
    let mut pauses = 4;
    while !done() {
        for _ in 0..pauses {
            spin_loop();
        }
        if pauses < 16 {
            pauses *= 2;
        }
    }
}

fn round_of(queue: &str, cpus: [usize; 2], put: impl Fn(Line) -> bool + Sync, get: impl Fn() -> Option<Line> + Sync) {
    one_round(cpus, &put, &get); // warms the caches, as in lanes_rounds.h
    let (took, preempted) = one_round(cpus, &put, &get);
    println!("mpmc\t{queue}\tone\t{:.0}\t{}", LINES as f64 / took, preempted);
}

fn one_round(cpus: [usize; 2], put: &(impl Fn(Line) -> bool + Sync), get: &(impl Fn() -> Option<Line> + Sync)) -> (f64, i64) {
    let (arrived, preempted) = (AtomicU64::new(0), AtomicI64::new(0));
    let mut took = 0.0;
    std::thread::scope(|scope| {
        let consumer = scope.spawn(|| {
            settle_on(cpus[1], &arrived);
            let before = preemptions();
            for number in 0..LINES {
                let mut line = None;
                wait_until(|| {
                    line = get();
                    line.is_some()
                });
                let line = line.unwrap();
                assert!(line.0[0] == number && line.0[7] == !number, "line {number} is wrong");
            }
            let end = Instant::now();
            preempted.fetch_add(preemptions() - before, Ordering::AcqRel);
            end
        });
        settle_on(cpus[0], &arrived);
        let before = preemptions();
        let begin = Instant::now();
        let mut line = Line([0; 8]);
        for number in 0..LINES {
            line.0[0] = number;
            line.0[7] = !number;
            wait_until(|| put(line));
        }
        preempted.fetch_add(preemptions() - before, Ordering::AcqRel);
        took = consumer.join().unwrap().duration_since(begin).as_secs_f64();
    });
    (took, preempted.load(Ordering::Acquire))
}

fn main() {
    let cpus = two_cpus();
    let array = ArrayQueue::new(CAPACITY);
    round_of("crossbeam ArrayQueue", cpus, |line| array.push(line).is_ok(), || array.pop());
    let segments = SegQueue::new();
    round_of("crossbeam SegQueue", cpus, |line| { segments.push(line); true }, || segments.pop());
    let (sender, receiver) = bounded(CAPACITY);
    round_of("crossbeam channel", cpus, |line| sender.try_send(line).is_ok(), || receiver.try_recv().ok());
}
