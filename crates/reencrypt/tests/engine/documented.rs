//! SQL from docs/database.md, so that what is documented is what is tested. Also for the tests of the command line.

const DOCUMENT: &str = include_str!("../../../../docs/database.md");

/// The block of this name.
pub(crate) fn documented(block: &str) -> String {
    let start = DOCUMENT.find(&format!("<!-- tested: {block} -->\n```sql\n")).expect("the block is in the document");
    let sql = &DOCUMENT[start..];
    let sql = &sql[sql.find("```sql\n").expect("it begins") + 7..];
    sql[..sql.find("```").expect("it ends")].to_owned()
}
