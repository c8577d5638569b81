//! Sections of a module or component.

/// Magic number and version.
pub(crate) const HEADER: usize = 8;

/// Returns the first section, its name (empty unless it is a custom section), and the sections after it. `None`: no
/// complete section is left.
pub(crate) fn section(sections: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let mut reader = wasmparser::BinaryReader::new(sections, 0);
    let id = reader.read_u8().ok()?;
    let size = usize::try_from(reader.read_var_u32().ok()?).ok()?;
    let (section, after) = sections.split_at_checked(reader.current_position().checked_add(size)?)?;
    let name = if id == 0 { reader.read_string().ok()?.as_bytes() } else { b"" };
    Some((section, name, after))
}
