//! Of a struct that rkyv may copy in one piece, a wrong field is reported where the struct is used, too.

pub struct Metres(f64);

#[shmrpc::message]
pub struct Point {
    x: Metres,
    y: f64,
}

#[shmrpc::message]
pub struct Line {
    name: String,
    points: Vec<Point>,
}

fn main() {}
