use super::folder::Folder;
use super::server::{MAX_MESSAGE, Server};
use super::wire::{HEADER, Reply, request};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const EBADF: u32 = 9;
const ENOENT: u32 = 2;
const EINVAL: u32 = 22;
const EROFS: u32 = 30;
const ELOOP: u32 = 40;
const ENOTDIR: u32 = 20;

/// A session with the root as fid 0.
fn session(path: &Path, read_only: bool) -> Server {
    let mut server = Server::new(Folder::open(path).unwrap(), read_only);
    call(&mut server, request::VERSION, Reply::default().u32(8192).string(b"9P2000.L")).unwrap();
    let attach = Reply::default().u32(0).u32(u32::MAX).string(b"root").string(b"").u32(0);
    call(&mut server, request::ATTACH, attach).unwrap();
    server
}

/// The fields of the reply, or the error number.
fn call(server: &mut Server, kind: u8, fields: Reply) -> Result<Vec<u8>, u32> {
    let mut message = ((HEADER + fields.len()) as u32).to_le_bytes().to_vec();
    message.extend([kind, 0x34, 0x12]);
    message.extend(fields.fields());
    let reply = server.answer(&message);
    assert_eq!(reply[..4], (reply.len() as u32).to_le_bytes());
    assert_eq!(reply[5..7], [0x34, 0x12]);
    if reply[4] == 7 {
        return Err(u32::from_le_bytes(reply[7..11].try_into().unwrap()));
    }
    assert_eq!(reply[4], kind + 1);
    Ok(reply[HEADER..].to_vec())
}

fn walk(server: &mut Server, from: u32, to: u32, names: &[&[u8]]) -> Result<usize, u32> {
    let fields = Reply::default().u32(from).u32(to).u16(names.len() as u16);
    let reply = call(server, request::WALK, names.iter().fold(fields, |fields, name| fields.string(name)))?;
    Ok(u16::from_le_bytes([reply[0], reply[1]]).into())
}

fn open(server: &mut Server, fid: u32, flags: u32) -> Result<Vec<u8>, u32> {
    call(server, request::LOPEN, Reply::default().u32(fid).u32(flags))
}

fn read(server: &mut Server, fid: u32, offset: u64, count: u32) -> Result<Vec<u8>, u32> {
    let reply = call(server, request::READ, Reply::default().u32(fid).u64(offset).u32(count))?;
    Ok(reply[4..].to_vec())
}

#[test]
fn files_are_read_written_and_listed() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("sub")).unwrap();
    fs::write(folder.path().join("sub/file"), "contents").unwrap();
    let mut server = session(folder.path(), false);
    assert_eq!(walk(&mut server, 0, 1, &[b"sub", b"file"]), Ok(2));
    assert_eq!(walk(&mut server, 0, 9, &[b"sub", b"none"]), Ok(1));
    assert_eq!(walk(&mut server, 9, 8, &[]), Err(EBADF));
    assert_eq!(walk(&mut server, 0, 9, &[b"none"]), Err(ENOENT));
    open(&mut server, 1, 0).unwrap();
    assert_eq!(read(&mut server, 1, 3, 100).unwrap(), b"tents");

    walk(&mut server, 0, 2, &[b"sub"]).unwrap();
    let create = Reply::default().u32(2).string(b"new").u32(0o101).u32(0o4755).u32(0);
    call(&mut server, request::LCREATE, create).unwrap();
    let write = Reply::default().u32(2).u64(2).u32(3).bytes(b"xyz");
    assert_eq!(call(&mut server, request::WRITE, write).unwrap(), 3u32.to_le_bytes());
    let new = folder.path().join("sub/new");
    assert_eq!(fs::read(&new).unwrap(), b"\0\0xyz");
    // No set-user-ID program appears on the host.
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&new).unwrap().permissions()) & 0o6000,
        0
    );

    // Names go on after a rename of the folder around them.
    let rename = Reply::default().u32(0).string(b"sub").u32(0).string(b"moved");
    call(&mut server, request::RENAMEAT, rename).unwrap();
    let size = Reply::default().u32(1).u32(8).u32(0).u32(0).u32(0).u64(4).u64(0).u64(0).u64(0).u64(0);
    call(&mut server, request::SETATTR, size).unwrap();
    assert_eq!(fs::read(folder.path().join("moved/file")).unwrap(), b"cont");

    walk(&mut server, 0, 3, &[b"moved"]).unwrap();
    open(&mut server, 3, 0o200000).unwrap();
    let mut names = Vec::new();
    let mut offset = 0;
    // Room for one entry or two in each reply.
    loop {
        let list = Reply::default().u32(3).u64(offset).u32(60);
        let reply = call(&mut server, request::READDIR, list).unwrap();
        let mut rest = &reply[4..];
        if rest.is_empty() {
            break;
        }
        while !rest.is_empty() {
            offset = u64::from_le_bytes(rest[13..21].try_into().unwrap());
            let len = usize::from(u16::from_le_bytes([rest[22], rest[23]]));
            names.push(String::from_utf8_lossy(&rest[24..24 + len]).into_owned());
            rest = &rest[24 + len..];
        }
    }
    names.sort();
    assert_eq!(names, [".", "..", "file", "new"]);

    for (name, directory) in [("moved/file", 0), ("moved/new", 0), ("moved", 0x200)] {
        let (parent, name) = name.rsplit_once('/').unwrap_or(("", name));
        let fid = 20;
        let path: Vec<&[u8]> = if parent.is_empty() { vec![] } else { vec![parent.as_bytes()] };
        walk(&mut server, 0, fid, &path).unwrap();
        let unlink = Reply::default().u32(fid).string(name.as_bytes()).u32(directory);
        call(&mut server, request::UNLINKAT, unlink).unwrap();
        call(&mut server, request::CLUNK, Reply::default().u32(fid)).unwrap();
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn nothing_leaves_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let folder = outside.path().join("shared");
    fs::create_dir(&folder).unwrap();
    symlink("../secret", folder.join("up")).unwrap();
    symlink(outside.path(), folder.join("out")).unwrap();
    symlink("/etc/passwd", folder.join("absolute")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, folder.join("pipe"), rustix::fs::FileType::Fifo, 0o666.into(), 0)
        .unwrap();
    let mut server = session(&folder, false);

    // The root's parent is the root.
    assert_eq!(walk(&mut server, 0, 1, &[b"..", b"..", b"secret"]), Ok(2));
    assert_eq!(walk(&mut server, 0, 1, &[b"secret"]), Err(ENOENT));
    for name in [&b"../secret"[..], b"a/b", b"", b"x\0", b"/etc/passwd"] {
        assert_eq!(walk(&mut server, 0, 1, &[name]), Err(ENOENT), "{name:?}");
        let make = Reply::default().u32(0).string(name).u32(0o755).u32(0);
        assert_eq!(call(&mut server, request::MKDIR, make), Err(EINVAL), "{name:?}");
    }
    let make = Reply::default().u32(0).string(b"..").u32(0o755).u32(0);
    assert_eq!(call(&mut server, request::MKDIR, make), Err(EINVAL));

    // Symbolic links are names, never ways.
    for (fid, name) in [(10, &b"up"[..]), (11, b"out"), (12, b"absolute")] {
        assert_eq!(walk(&mut server, 0, fid, &[name]), Ok(1));
        assert_eq!(open(&mut server, fid, 0), Err(ELOOP));
        let size = Reply::default().u32(fid).u32(8).u32(0).u32(0).u32(0).u64(0).u64(0).u64(0).u64(0).u64(0);
        assert_eq!(call(&mut server, request::SETATTR, size), Err(EINVAL));
        let create = Reply::default().u32(fid).string(b"x").u32(0o101).u32(0o644).u32(0);
        assert!(matches!(call(&mut server, request::LCREATE, create), Err(ELOOP | ENOTDIR)));
        let link = Reply::default().u32(0).string(name).u32(0o101).u32(0o644).u32(0);
        walk(&mut server, 0, 13, &[]).unwrap();
        let link = Reply::default().u32(13).bytes(&link.fields()[4..]);
        assert_eq!(call(&mut server, request::LCREATE, link), Err(ELOOP));
        call(&mut server, request::CLUNK, Reply::default().u32(13)).unwrap();
    }
    let target = call(&mut server, request::READLINK, Reply::default().u32(12)).unwrap();
    assert_eq!(&target[2..], b"/etc/passwd");
    assert_eq!(walk(&mut server, 11, 14, &[b"secret"]), Err(ELOOP));
    // A folder that becomes a link to the outside while the guest holds a name in it.
    fs::create_dir(folder.join("real")).unwrap();
    fs::write(folder.join("real/secret"), "mine").unwrap();
    walk(&mut server, 0, 15, &[b"real", b"secret"]).unwrap();
    fs::rename(folder.join("real"), folder.join("was")).unwrap();
    symlink(outside.path(), folder.join("real")).unwrap();
    assert_eq!(open(&mut server, 15, 0), Err(ELOOP));
    // A pipe would wait for its other end.
    walk(&mut server, 0, 16, &[b"pipe"]).unwrap();
    assert_eq!(open(&mut server, 16, 1), Err(13));
    let device = Reply::default().u32(0).string(b"sda").u32(0o060_644).u32(8).u32(0).u32(0);
    assert_eq!(call(&mut server, request::MKNOD, device), Err(1));
    assert_eq!(fs::read(outside.path().join("secret")).unwrap(), b"secret");
}

#[test]
fn a_read_only_share_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "contents").unwrap();
    let mut server = session(folder.path(), true);
    walk(&mut server, 0, 1, &[b"file"]).unwrap();
    assert_eq!(open(&mut server, 1, 2), Err(EROFS));
    assert_eq!(open(&mut server, 1, 0o1000), Err(EROFS));
    assert_eq!(call(&mut server, request::REMOVE, Reply::default().u32(1)), Err(EROFS));
    assert_eq!(open(&mut server, 1, 0), Err(EBADF));
    let make = Reply::default().u32(0).string(b"new").u32(0o755).u32(0);
    assert_eq!(call(&mut server, request::MKDIR, make), Err(EROFS));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn noise_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), vec![1; 100_000]).unwrap();
    let mut server = session(folder.path(), true);
    let mut state = 7u64;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    };
    for round in 0..20_000 {
        let len = round % 60;
        let mut message: Vec<u8> =
            (0..len).map(|_| byte() & if byte() & 3 == 0 { 0xff } else { 3 }).collect();
        if let Some(kind) = message.get_mut(4) {
            *kind = byte() & 0x7e;
        }
        let reply = server.answer(&message);
        assert!(reply.len() <= MAX_MESSAGE as usize && reply.is_empty() == (len < HEADER));
    }
    assert!(server.answer(&[0; HEADER - 1]).is_empty());
}
