pub trait Files {
    fn open(&self, path: &str) -> Result<OwnedFd, OpenError>;
    fn copy(&self, from: OwnedFd, ctx: &Context, to: std::os::fd::OwnedFd) -> OwnedFd;
}
