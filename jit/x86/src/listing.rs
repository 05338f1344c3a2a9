//! What has been emitted, for tests and listings.

use crate::Translator;
use crate::site::{Kind, Site};
use crate::stubs::Stubs;

/// A block and its host code.
#[derive(Clone, Debug)]
pub struct HostCode {
    /// Where it starts in the guest.
    pub rip: u64,
    /// The guest's bytes.
    pub guest: Vec<u8>,
    /// Where it is executed.
    pub address: u64,
    /// The host's code. After a call of the [stub](Translator::stub) `at-site` follow four bytes: the site's number.
    pub code: Vec<u8>,
}

impl Translator {
    /// The blocks that are not stale, in the order of their translation.
    pub fn host_code(&self) -> impl Iterator<Item = HostCode> + '_ {
        self.blocks.iter().filter(|block| !block.stale).map(|block| {
            let mut code = vec![0; block.host_len];
            self.arena.read(block.start, &mut code);
            let guest = self.bytes[block.bytes.clone()].to_vec();
            HostCode { rip: block.key.0, guest, address: block.start as u64, code }
        })
    }

    /// Which of the stubs that blocks call is at an address; `at-site` is the one that leaves.
    pub fn stub(&self, address: u64) -> Option<&'static str> {
        let Stubs { leave_at_site, load_sse, load_full, look_up, split, .. } = self.stubs;
        let stub = (address as usize).wrapping_sub(self.arena_start());
        let one = |at: usize, name: &'static str| (stub == at).then_some(name);
        one(leave_at_site, "at-site")
            .or_else(|| one(load_sse, "load-sse"))
            .or_else(|| one(load_full, "load-full"))
            .or_else(|| look_up.contains(&stub).then_some("look-up"))
            .or_else(|| split.name(stub))
    }

    /// What is done at a site, in a word, and the guest address that it is about.
    pub fn site(&self, number: u32) -> Option<(&'static str, u64)> {
        let site = Site::of(number);
        let index = site.index as usize;
        let run = || self.runs.get(index).map(|run| run.rip);
        let link = || self.links.get(index).map(|link| link.rip);
        let block = || self.blocks.get(index).map(|block| block.key.0);
        let (what, rip) = match site.kind {
            Kind::Exec => ("exec", run()),
            Kind::ExecLast => ("exec-last", run()),
            Kind::ExecX87 => ("exec x87", run()),
            Kind::Link => ("link", link()),
            Kind::LinkByPage => ("link by page", link()),
            Kind::LinkByOtherPage => ("link by other page", link()),
            Kind::LinkUngrouped => ("link ungrouped", link()),
            Kind::Budget => ("budget", block()),
            Kind::Page => ("page", block()),
            Kind::Stale => ("stale", block()),
            Kind::Null => ("return to address 0", Some(0)),
            Kind::Unfit => ("unfit", None),
            Kind::ExecWindow => ("exec window", run()),
            Kind::Window => ("window", block()),
        };
        Some((what, rip?))
    }
}
