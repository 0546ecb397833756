#[recheck(crate = ::shmrpc)]
enum Shape<T> {
    Dot,
    Round(f32, Vec<T>),
    Path { points: HashMap<u8, T> } = 7,
}
