//! VMX.

mod hooks;

use serde::{Deserialize, Serialize};

/// The processor's VMX state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Vmx {}
