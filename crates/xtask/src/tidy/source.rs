//! Rust source as tokens with line numbers: just enough of the language that a word in a comment or a string is
//! never taken for code.

/// A token; comments, strings, characters, lifetimes and numbers are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub kind: Kind<'a>,
    /// Counted from 1.
    pub line: usize,
}

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind<'a> {
    /// A name or a keyword; of a raw name, the part after `r#`.
    Word(&'a str),
    /// One character of punctuation.
    Mark(char),
}

impl Token<'_> {
    /// Whether this is that name or keyword.
    pub fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word(word)
    }

    /// Whether this is that character.
    pub fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

/// The tokens of a file.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut reader = Reader {
        text,
        position: 0,
        line: 1,
    };
    let mut tokens = Vec::new();
    while let Some(token) = reader.next_token() {
        tokens.push(token);
    }
    tokens
}

/// The index just past the bracket that closes the one at `open`, or the end where none does.
pub fn past_closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.kind {
            Kind::Mark('(' | '[' | '{') => depth += 1,
            Kind::Mark(')' | ']' | '}') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

struct Reader<'a> {
    text: &'a str,
    position: usize,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next_token(&mut self) -> Option<Token<'a>> {
        loop {
            let rest = &self.text[self.position..];
            let first = rest.chars().next()?;
            let line = self.line;
            if rest.starts_with("//") {
                self.advance(rest.find('\n').unwrap_or(rest.len()));
            } else if rest.starts_with("/*") {
                self.advance(block_comment_length(rest));
            } else if let Some(length) = string_length(rest) {
                self.advance(length);
            } else if first == '\'' {
                self.advance(quote_length(rest));
            } else if first.is_ascii_digit() {
                self.advance(word_length(rest));
            } else if first == '_' || first.is_alphabetic() {
                let skipped = if rest.starts_with("r#") { 2 } else { 0 };
                let length = word_length(&rest[skipped..]);
                self.advance(skipped + length);
                let kind = Kind::Word(&rest[skipped..skipped + length]);
                return Some(Token { kind, line });
            } else {
                self.advance(first.len_utf8());
                if !first.is_whitespace() {
                    let kind = Kind::Mark(first);
                    return Some(Token { kind, line });
                }
            }
        }
    }

    fn advance(&mut self, n_bytes: usize) {
        let passed = &self.text[self.position..self.position + n_bytes];
        self.line += passed.matches('\n').count();
        self.position += n_bytes;
    }
}

fn word_length(text: &str) -> usize {
    text.find(|c: char| c != '_' && !c.is_alphanumeric())
        .unwrap_or(text.len())
}

/// Block comments nest.
fn block_comment_length(text: &str) -> usize {
    let mut depth = 0;
    let mut position = 0;
    while position < text.len() {
        let rest = &text.as_bytes()[position..];
        if rest.starts_with(b"/*") {
            depth += 1;
            position += 2;
        } else if rest.starts_with(b"*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return position;
            }
        } else {
            position += 1;
        }
    }
    text.len()
}

/// The length of the string literal that `text` starts with: plain, byte, C or raw.
fn string_length(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""]
        .into_iter()
        .find(|prefix| text.starts_with(prefix))?;
    let rest = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let n_hashes = rest.bytes().take_while(|&byte| byte == b'#').count();
        let body = rest[n_hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(n_hashes));
        let length = body.find(&end).map_or(body.len(), |at| at + end.len());
        return Some(prefix.len() + n_hashes + 1 + length);
    }
    let body = rest.strip_prefix('"')?;
    let mut is_escaped = false;
    for (at, byte) in body.bytes().enumerate() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return Some(prefix.len() + 1 + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of the character literal or lifetime that starts here.
fn quote_length(text: &str) -> usize {
    let body = &text[1..];
    if let Some(escaped) = body.strip_prefix('\\') {
        // The escaped character itself may be a quote.
        let skipped = escaped.chars().next().map_or(0, char::len_utf8);
        let closing = escaped[skipped..].find('\'');
        return closing.map_or(text.len(), |at| 2 + skipped + at + 1);
    }
    let Some(character) = body.chars().next() else {
        return 1;
    };
    let is_character = body[character.len_utf8()..].starts_with('\'');
    if is_character {
        1 + character.len_utf8() + 1
    } else {
        1 + word_length(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<&str> {
        tokens(text)
            .into_iter()
            .filter_map(|token| match token.kind {
                Kind::Word(word) => Some(word),
                Kind::Mark(_) => None,
            })
            .collect()
    }

    #[test]
    fn comments_and_literals_are_not_words() {
        let text = r###"
            // a
            /* b /* c */ d */
            let e = "f \" g"; let h = r#"i " j"#; let k = b"l"; let m = 'n'; let o = '\''; let p = '\u{41}';
            fn q<'r>(s: &'r str) { 1u8; 'static; r#type }
        "###;
        let expected = [
            "let", "e", "let", "h", "let", "k", "let", "m", "let", "o", "let", "p",
        ];
        assert_eq!(words(text)[..12], expected);
        assert_eq!(words(text)[12..], ["fn", "q", "s", "str", "type"]);
    }

    #[test]
    fn lines_count_through_strings_and_comments() {
        let text = "a\n/* \n */ b \"\n\" c";
        let lines: Vec<usize> = tokens(text).iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 4]);
    }

    #[test]
    fn brackets_close() {
        let tokens = tokens("a { b ( c ) } d");
        let past = past_closing(&tokens, 1);
        assert!(tokens[past].is_word("d"));
    }
}
