use std::fs::File;
use std::os::fd::OwnedFd;

#[shmrpc::service]
pub trait Files {
    fn open(&self, path: &str) -> Result<OwnedFd, String>;
    fn append(&self, file: OwnedFd, text: &str) -> u64;
}

fn look(files: &FilesClient) -> Result<File, Box<dyn std::error::Error>> {
    let file = File::from(files.open("/var/log/kv")?); // opened by the server, read here
    files.append(file.try_clone()?, "seen")?;
    Ok(file)
}
