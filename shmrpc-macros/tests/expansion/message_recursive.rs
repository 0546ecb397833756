/// A tree.
pub struct Tree<T> {
    value: T,
    children: Vec<Tree<T>>,
}
