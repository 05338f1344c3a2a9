//! What has been emitted, for tests and listings.

use crate::Translator;
use crate::site::{Kind, Site};

/// A block and its host code.
#[derive(Clone, Debug)]
pub struct HostCode {
    /// Where it starts in the guest.
    pub rip: u64,
    /// The guest's bytes.
    pub guest: Vec<u8>,
    /// Where it is executed.
    pub address: u64,
    /// The host's code. After a call of [`Leaving::at_site`] follow four bytes: the site's number.
    pub code: Vec<u8>,
}

/// Where host code calls to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaving {
    /// Leaves at a site.
    pub at_site: u64,
    /// Loads the XMM registers.
    pub load_sse: u64,
    /// Loads all vector state.
    pub load_full: u64,
    /// Looks a return address up in the jump cache, outside of guests.
    pub look_up: u64,
}

impl Translator {
    /// The blocks that are not stale, in the order of their translation.
    pub fn host_code(&self) -> impl Iterator<Item = HostCode> + '_ {
        self.blocks.iter().filter(|block| !block.stale).map(|block| {
            let mut code = vec![0; block.host_len];
            self.arena.read(block.start, &mut code);
            HostCode { rip: block.key.0, guest: block.bytes.to_vec(), address: block.start as u64, code }
        })
    }

    /// The addresses of the stubs that blocks call.
    pub fn leaving(&self) -> Leaving {
        let at = |stub| (self.arena_start() + stub) as u64;
        Leaving {
            at_site: at(self.stubs.leave_at_site),
            load_sse: at(self.stubs.load_sse),
            load_full: at(self.stubs.load_full),
            look_up: at(self.stubs.look_up[0]),
        }
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
            Kind::Link => ("link", link()),
            Kind::LinkUngrouped => ("link ungrouped", link()),
            Kind::Budget => ("budget", block()),
            Kind::Page => ("page", block()),
            Kind::Stale => ("stale", block()),
            Kind::Null => ("return to address 0", Some(0)),
        };
        Some((what, rip?))
    }
}
