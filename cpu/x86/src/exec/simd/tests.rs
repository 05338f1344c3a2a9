//! Every form against the host's silicon.

use crate::row;

#[test]
fn rows_exist() {
    assert!(row::implemented().count() > 500);
}
