//! SVM.

mod hooks;

use serde::{Deserialize, Serialize};

/// The processor's SVM state.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Svm {}
