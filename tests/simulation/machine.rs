//! What a process asks its machine for, answered by the simulation: time and randomness. The C library's functions are
//! replaced in this test's executable, so that code under test needs no seam for them: std, tokio and every library
//! that asks the machine get the same answers in every run of a seed.
//!
//! Only threads that called [`simulate`] are concerned; all others get the machine's own answers.

use std::cell::Cell;
use std::ffi::{c_int, c_uint, c_void};
use std::time::{Duration, Instant};

/// Where the simulated clocks begin, seconds: 2026-01-05 08:00:00 for the wall clock.
const WALL_START_S: i64 = 1_767_600_000;
/// And the monotonic one; any number that leaves room for subtractions.
const MONOTONIC_START_S: i64 = 1_000_000;
const NANOSECONDS: i64 = 1_000_000_000;

thread_local! {
    /// When the simulation of this thread began, by the simulated clock.
    static ORIGIN: Cell<Option<Instant>> = const { Cell::new(None) };
    static IS_SIMULATED: Cell<bool> = const { Cell::new(false) };
    /// The clock is being asked already.
    static ASKING: Cell<bool> = const { Cell::new(false) };
    static ELAPSED_NS: Cell<i64> = const { Cell::new(0) };
    static WALL_STEP_MS: Cell<i64> = const { Cell::new(0) };
    static RANDOM: Cell<u64> = const { Cell::new(0) };
}

/// From here on this thread lives in the simulation of a seed. Once, before anything else.
pub(crate) fn simulate(seed: u64) {
    RANDOM.set(seed ^ 0x6b65_7974_7572_6e21);
    IS_SIMULATED.set(true);
    ORIGIN.set(Some(Instant::now()));
}

/// Sets the wall clock forward or back.
pub(crate) fn step_wall_clock(milliseconds: i64) {
    WALL_STEP_MS.set(WALL_STEP_MS.get() + milliseconds);
}

/// The next number of a well-mixed sequence (SplitMix64, Steele et al. 2014).
pub(crate) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// How long the simulation has lasted by the runtime's clock, which stands still while anybody has something to do.
pub(crate) fn elapsed() -> Duration {
    Duration::from_nanos(elapsed_ns().unsigned_abs())
}

fn elapsed_ns() -> i64 {
    // Outside a runtime, and while it is made, the runtime's clock asks the machine's: the last answer is given again.
    if let Some(origin) = ORIGIN.get()
        && !ASKING.replace(true)
    {
        let now = tokio::time::Instant::now().into_std();
        let elapsed = i64::try_from(now.duration_since(origin).as_nanos()).unwrap_or(i64::MAX);
        ELAPSED_NS.set(ELAPSED_NS.get().max(elapsed));
        ASKING.set(false);
    }
    ELAPSED_NS.get()
}

/// The C library's `clock_gettime`.
#[expect(
    unsafe_code,
    reason = "the C library's function is replaced; a pointer to where the answer goes is its caller's word"
)]
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if !IS_SIMULATED.get() {
        // SAFETY: the same arguments go to the kernel, which checks the pointer.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    }
    let (start_s, step_ms) = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => (WALL_START_S, WALL_STEP_MS.get()),
        _ => (MONOTONIC_START_S, 0),
    };
    let nanoseconds = elapsed_ns() + step_ms * 1_000_000;
    let answer = libc::timespec {
        tv_sec: start_s + nanoseconds.div_euclid(NANOSECONDS),
        tv_nsec: nanoseconds.rem_euclid(NANOSECONDS),
    };
    // SAFETY: callers give a pointer to a timespec of theirs, as the function's contract says.
    unsafe { time.write(answer) };
    0
}

/// The C library's `getrandom`.
#[expect(
    unsafe_code,
    reason = "the C library's function is replaced; a pointer to where the answer goes is its caller's word"
)]
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if !IS_SIMULATED.get() {
        // SAFETY: the same arguments go to the kernel, which checks the pointer.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as isize;
    }
    let mut state = RANDOM.get();
    for at in 0..length {
        let [byte, ..] = next_random(&mut state).to_le_bytes();
        // SAFETY: callers give a pointer to `length` bytes of theirs, as the function's contract says.
        unsafe { buffer.cast::<u8>().add(at).write(byte) };
    }
    RANDOM.set(state);
    length as isize
}
