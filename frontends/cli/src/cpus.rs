//! `ringworld cpus`.

/// Lists CPU models and features.
pub fn list() -> anyhow::Result<i32> {
    anyhow::bail!("no CPU models yet")
}
