//! Sentences of a kernel or of a judge without what differs from run to run: times, addresses, counts, process numbers.
//!
//! What remains names the bug. A digit that belongs to a name (`ext4_lookup`, `v6_1`) stays.

/// The sentence with `N` for each number and address, and no time in front.
pub fn normalised(text: &str) -> String {
    let mut words = Vec::new();
    for word in without_time(text).split_whitespace() {
        let word = normalised_word(word);
        // A list of numbers says no more than one.
        if word != "N" || words.last().is_none_or(|last| last != "N") {
            words.push(word);
        }
    }
    words.join(" ")
}

/// Without the `[   12.345678] ` that printk puts in front.
pub fn without_time(line: &str) -> &str {
    let line = line.trim();
    let time = |text: &str| text.chars().all(|c| c.is_ascii_digit() || " .T".contains(c));
    match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((inside, rest)) if time(inside) => rest.trim_start(),
        _ => line,
    }
}

fn normalised_word(word: &str) -> String {
    // A worker is named by its CPU and its number in the pool.
    if let Some(at) = word.find("kworker/") {
        return format!("{}kworker", &word[..at]);
    }
    let mut out = String::new();
    let mut rest = word;
    while let Some(c) = rest.chars().next() {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = if is_part(c) { rest.find(|c| !is_part(c)).unwrap_or(rest.len()) } else { c.len_utf8() };
        let (piece, after) = rest.split_at(end);
        match is_number(piece) {
            // `1.5`, `3..8` and `5:0` are one number to a reader.
            true if out.trim_end_matches(['.', ':', '=', '+', '/', '-']).ends_with('N') => {
                out.truncate(out.rfind('N').map_or(0, |at| at + 1));
            }
            true => out.push('N'),
            false => out.push_str(piece),
        }
        rest = after;
    }
    out
}

/// Digits, or an address: hexadecimal with `0x`, or long enough to be no word.
fn is_number(piece: &str) -> bool {
    let hex = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_hexdigit());
    piece.starts_with(|c: char| c.is_ascii_digit()) || piece.len() >= 12 && hex(piece)
}

/// A kernel function without its place, its module and what the compiler put behind its name.
pub fn function(frame: &str) -> &str {
    let name = frame.split(['+', ' ', '[']).next().unwrap_or_default();
    name.split('.').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_go_and_names_with_digits_stay() {
        let line =
            "[    2.1] EXT4-fs error (device vda): ext4_lookup:1785: inode #2: comm kworker/u2:1: deleted inode 13";
        assert_eq!(
            normalised(line),
            "EXT4-fs error (device vda): ext4_lookup:N: inode #N: comm kworker deleted inode N"
        );
        assert_eq!(normalised("bytes 1048576..2097152 hold blocks 12, 13"), "bytes N hold blocks N, N");
        assert_eq!(normalised("at ffff888003a4b000 or 0x1f"), "at N or N");
    }

    #[test]
    fn a_frame_is_its_function_alone() {
        assert_eq!(function("ext4_put_io_end+0x11/0x40 [ext4]"), "ext4_put_io_end");
        assert_eq!(function("mpage_map_one_extent.constprop.0+0x1/0x2"), "mpage_map_one_extent");
        assert_eq!(function("do_writepages.part.0.cold+0x1/0x2"), "do_writepages");
    }

    proptest! {
        #[test]
        fn other_numbers_are_the_same_sentence(time in "[0-9]{1,5}\\.[0-9]{6}", a: u64, b: u64, line: u16) {
            let say = |time: &str, a: u64, b: u64, line: u16| {
                format!("[ {time}] WARNING: CPU: {b} PID: {a} at fs/ext4/page-io.c:{line} ext4_release_io_end+0x{a:x}/0x{b:x} ({a})")
            };
            prop_assert_eq!(normalised(&say(&time, a, b, line)), normalised(&say("1.000000", 1, 2, 3)));
        }

        #[test]
        fn saying_it_again_changes_nothing(text in "[ -~]{0,80}") {
            let once = normalised(&text);
            prop_assert_eq!(normalised(&once), once);
        }
    }
}
