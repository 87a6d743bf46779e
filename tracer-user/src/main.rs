//! The tracer's command line.

mod clock;

fn main() {
    println!("{}", clock::WallClock::synchronised().unix_nanos(clock::now()));
}
