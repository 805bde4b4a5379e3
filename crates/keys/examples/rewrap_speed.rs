//! `cargo run --release -p keys --example rewrap_speed`: turning values of several sizes against the library's own calls.

#![expect(clippy::print_stdout, reason = "an example shows what it finds")]

fn main() -> Result<(), keys::value::ValueError> {
    for stored_bytes in [112, 512, 1024, 4096, 65_536] {
        let speed = keys::value::measure_speed(stored_bytes)?;
        println!(
            "{stored_bytes} bytes: {:?} against {:?}, {:.2} times",
            speed.rewrap,
            speed.bare,
            speed.over_library()
        );
    }
    Ok(())
}
