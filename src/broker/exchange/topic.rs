//! Topic exchanges: a trie of the binding keys' words (AMQP 0-9-1 section 3.1.3.3).
//!
//! ```text
//! a.b  a.*.c  a.#           (root) -a-> ( ) -b-> (a.b)
//!                                        |- * -> ( ) -c-> (a.*.c)
//!                                        `- # -> (a.#)
//! ```
//! A node is found from its parent by one look-up, whatever the number of its siblings, so a message costs what matches
//! it. Words are numbered, each kept once, and the edges of all nodes are in one map: a node has no memory of its own.
//!
//! The words of a key are what is between its dots. The empty key has none, "." has two empty ones.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::mem;

use super::InvalidBinding;
use super::destinations::Destinations;

/// The most `#` in a binding key. Deviation: RabbitMQ 3.10 takes any number, 4.3.5 takes 2.
const HASHES_MAX: usize = 16;

/// Refuses a binding key of too many `#`, in RabbitMQ 4.3.5's words.
pub(super) fn validate(key: &str) -> Result<(), InvalidBinding> {
    let hashes = words(key).filter(|word| *word == "#").count();
    if hashes > HASHES_MAX {
        let text = format!(
            "Topic binding key '{key}' uses {hashes} '#' wildcards, at most {HASHES_MAX} are allowed"
        );
        return Err(InvalidBinding { text });
    }
    Ok(())
}

/// Destinations by patterns of words.
#[derive(Debug)]
pub(super) struct Topic<D> {
    /// The root is the first and always there.
    nodes: Vec<Node<D>>,
    free_nodes: Vec<u32>,
    /// The child of a node by a literal word.
    edges: HashMap<(u32, u32), u32>,
    words: HashMap<Box<str>, Word>,
    free_words: Vec<u32>,
}

#[derive(Debug)]
struct Node<D> {
    /// The child by `*`, or [`NONE`].
    star: u32,
    /// The child by `#`, or [`NONE`]. A `#` has none itself: `#.#` means what `#` means.
    hash: u32,
    /// How many children there are by literal words.
    literals: u32,
    /// Of the bindings whose key ends here.
    destinations: Destinations<D>,
}

/// A literal word of some binding key.
#[derive(Debug)]
struct Word {
    number: u32,
    /// The edges that have it.
    edges: u32,
}

const ROOT: u32 = 0;
/// No child: the root is nobody's.
const NONE: u32 = ROOT;
/// The number of every word that no binding key has. Only wildcards match it.
const UNKNOWN: u32 = 0;
/// Routing keys up to this many words are looked up without an allocation.
const WORDS_INLINE: usize = 16;

impl<D> Default for Node<D> {
    fn default() -> Self {
        Self { star: NONE, hash: NONE, literals: 0, destinations: Destinations::None }
    }
}

impl<D> Default for Topic<D> {
    fn default() -> Self {
        Self {
            nodes: vec![Node::default()],
            free_nodes: Vec::new(),
            edges: HashMap::new(),
            words: HashMap::new(),
            free_words: Vec::new(),
        }
    }
}

impl<D: Clone + Eq + Hash> Topic<D> {
    pub(super) fn insert(&mut self, key: &str, destination: D) {
        let mut node = ROOT;
        for word in pattern(key) {
            node = match self.child(node, word) {
                NONE => self.add_child(node, word),
                child => child,
            };
        }
        self.node_mut(node).destinations.insert(destination);
    }

    /// Takes a binding away, and every node that leads nowhere then.
    pub(super) fn remove(&mut self, key: &str, destination: &D) {
        let mut node = ROOT;
        let mut path = Vec::new();
        for word in pattern(key) {
            path.push((node, word));
            node = match self.child(node, word) {
                NONE => return,
                child => child,
            };
        }
        self.node_mut(node).destinations.remove(destination);
        while let Some((parent, word)) = path.pop().filter(|_| self.node(node).leads_nowhere()) {
            self.remove_child(parent, word, node);
            node = parent;
        }
    }

    /// Visits each (node, position in the key) at most once.
    pub(super) fn route(&self, routing_key: &str, visit: &mut impl FnMut(&D)) {
        let (mut inline, mut spilled) = ([UNKNOWN; WORDS_INLINE], Vec::new());
        let words = self.numbers(routing_key, &mut inline, &mut spilled);
        Walk { topic: self, words, entered: HashSet::new(), visit }.node(ROOT, 0, false);
    }

    /// The numbers of a routing key's words, in `inline` if they fit.
    fn numbers<'a>(
        &self,
        key: &str,
        inline: &'a mut [u32; WORDS_INLINE],
        spilled: &'a mut Vec<u32>,
    ) -> &'a [u32] {
        let mut words = words(key).map(|word| self.words.get(word).map_or(UNKNOWN, |word| word.number));
        let mut len = 0;
        for (slot, word) in inline.iter_mut().zip(&mut words) {
            *slot = word;
            len += 1;
        }
        match words.next() {
            None => &inline[..len],
            Some(next) => {
                spilled.extend_from_slice(inline);
                spilled.push(next);
                spilled.extend(words);
                spilled
            }
        }
    }

    fn node(&self, node: u32) -> &Node<D> {
        &self.nodes[node as usize]
    }

    fn node_mut(&mut self, node: u32) -> &mut Node<D> {
        &mut self.nodes[node as usize]
    }

    fn child(&self, node: u32, word: &str) -> u32 {
        match word {
            "*" => self.node(node).star,
            "#" => self.node(node).hash,
            _ => self.words.get(word).map_or(NONE, |word| self.literal(node, word.number)),
        }
    }

    fn literal(&self, node: u32, word: u32) -> u32 {
        self.edges.get(&(node, word)).copied().unwrap_or(NONE)
    }

    fn add_child(&mut self, parent: u32, word: &str) -> u32 {
        let child = self.free_nodes.pop().unwrap_or_else(|| {
            self.nodes.push(Node::default());
            number(self.nodes.len() - 1)
        });
        match word {
            "*" => self.node_mut(parent).star = child,
            "#" => self.node_mut(parent).hash = child,
            _ => {
                let word = self.use_word(word);
                self.edges.insert((parent, word), child);
                self.node_mut(parent).literals += 1;
            }
        }
        child
    }

    fn remove_child(&mut self, parent: u32, word: &str, child: u32) {
        match word {
            "*" => self.node_mut(parent).star = NONE,
            "#" => self.node_mut(parent).hash = NONE,
            _ => {
                let word = self.release_word(word);
                self.edges.remove(&(parent, word));
                self.node_mut(parent).literals -= 1;
            }
        }
        self.free_nodes.push(child);
    }

    fn use_word(&mut self, text: &str) -> u32 {
        if let Some(word) = self.words.get_mut(text) {
            word.edges += 1;
            return word.number;
        }
        // Numbers in use and free ones together are 1, 2, 3 and so on.
        let number = self.free_words.pop().unwrap_or_else(|| number(self.words.len() + 1));
        self.words.insert(text.into(), Word { number, edges: 1 });
        number
    }

    fn release_word(&mut self, text: &str) -> u32 {
        let word = self.words.get_mut(text).expect("invariant: the word of an edge has a number");
        let number = word.number;
        word.edges -= 1;
        if word.edges == 0 {
            self.words.remove(text);
            self.free_words.push(number);
        }
        number
    }
}

impl<D: Clone + Eq + Hash> Node<D> {
    fn leads_nowhere(&self) -> bool {
        self.destinations.is_empty() && self.literals == 0 && self.star == NONE && self.hash == NONE
    }
}

/// One message's way through the trie. It goes as deep as the routing key has words and the binding key has `#`.
struct Walk<'a, D, F> {
    topic: &'a Topic<D>,
    words: &'a [u32],
    /// The `#` nodes below other `#` that were walked.
    entered: HashSet<u32>,
    visit: &'a mut F,
}

impl<D: Clone + Eq + Hash, F: FnMut(&D)> Walk<'_, D, F> {
    /// At a node that the words before `position` led to.
    fn node(&mut self, number: u32, position: usize, below_hash: bool) {
        let node = self.topic.node(number);
        if position == self.words.len() {
            node.destinations.visit(self.visit);
        } else {
            self.step(number, node, position, below_hash);
        }
        if node.hash != NONE {
            self.hash(node.hash, position, below_hash);
        }
    }

    /// At a `#` node: it takes any number of the words from `position` on, and all of them to end here.
    ///
    /// Between a `#` and the `#` below it is a fixed number of words, so as the upper one takes more and more, the lower
    /// one is entered at later and later positions: all that follows from those followed from the first.
    fn hash(&mut self, number: u32, position: usize, below_hash: bool) {
        if below_hash && !self.entered.insert(number) {
            return;
        }
        let node = self.topic.node(number);
        node.destinations.visit(self.visit);
        for position in position..self.words.len() {
            self.step(number, node, position, true);
        }
    }

    /// To the children that the word at `position` leads to.
    fn step(&mut self, number: u32, node: &Node<D>, position: usize, below_hash: bool) {
        let word = self.words[position];
        if node.literals > 0 && word != UNKNOWN {
            let child = self.topic.literal(number, word);
            if child != NONE {
                self.node(child, position + 1, below_hash);
            }
        }
        if node.star != NONE {
            self.node(node.star, position + 1, below_hash);
        }
    }
}

/// The words of a routing or binding key.
fn words(key: &str) -> impl Iterator<Item = &str> {
    // `split` finds one empty word in an empty key; RabbitMQ finds none.
    key.split('.').filter(move |_| !key.is_empty())
}

/// The words of a binding key with each run of `#` as one.
fn pattern(key: &str) -> impl Iterator<Item = &str> {
    let mut after_hash = false;
    words(key).filter(move |word| {
        let is_hash = *word == "#";
        !(mem::replace(&mut after_hash, is_hash) && is_hash)
    })
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("invariant: memory ends before the trie has 2^32 nodes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn topic(keys: &[&'static str]) -> Topic<&'static str> {
        let mut topic = Topic::default();
        for key in keys {
            topic.insert(key, *key);
        }
        topic
    }

    fn matching<'a>(topic: &Topic<&'a str>, routing_key: &str) -> Vec<&'a str> {
        let mut keys = BTreeSet::new();
        topic.route(routing_key, &mut |key| _ = keys.insert(*key));
        keys.into_iter().collect()
    }

    /// As RabbitMQ 3.10.8 routes: for each routing key every one of the binding keys that matches.
    #[test]
    fn a8_topic_words_and_wildcards_match_as_in_rabbitmq() {
        let binding_keys = [
            "",
            "#",
            "*",
            "#.#",
            "*.#",
            "#.*",
            "*.*",
            "a",
            "a.b",
            "a.#",
            "#.b",
            "a.#.b",
            "a.*.b",
            "a..b",
            "a.",
            ".a",
            ".",
            "..",
            "#.a.#",
            "*.#.*",
            "#.*.#",
            "a.#.#",
            "a.*.#",
            "#.a.#.b.#",
            "a#",
            "*a",
            "A",
            "#.#.#",
            "a.#.",
            ".#",
        ];
        let any = ["#", "#.#", "#.#.#"];
        let one_or_more = ["*.#", "#.*", "#.*.#"];
        let cases: [(&str, &[&str]); 24] = [
            ("", &[""]),
            ("a", &["*", "a", "a.#", "#.a.#", "a.#.#"]),
            ("b", &["*", "#.b"]),
            ("A", &["*", "A"]),
            ("a#", &["*", "a#"]),
            ("#", &["*"]),
            ("*", &["*"]),
            ("a.b", &["*.*", "a.b", "a.#", "#.b", "a.#.b", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#"]),
            ("b.a", &["*.*", "#.a.#", "*.#.*"]),
            ("a.a", &["*.*", "a.#", "#.a.#", "*.#.*", "a.#.#", "a.*.#"]),
            ("a.*", &["*.*", "a.#", "#.a.#", "*.#.*", "a.#.#", "a.*.#"]),
            ("a.c.b", &["a.#", "#.b", "a.#.b", "a.*.b", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#"]),
            ("a.#.b", &["a.#", "#.b", "a.#.b", "a.*.b", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#"]),
            ("a.b.c", &["a.#", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#"]),
            ("a.x.y.b", &["a.#", "#.b", "a.#.b", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#"]),
            ("x.a.y.b.z", &["#.a.#", "*.#.*", "#.a.#.b.#"]),
            (
                "a..b",
                &["a.#", "#.b", "a.#.b", "a.*.b", "a..b", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#"],
            ),
            ("a.", &["*.*", "a.#", "a.", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "a.#."]),
            ("a.b.", &["a.#", "#.a.#", "*.#.*", "a.#.#", "a.*.#", "#.a.#.b.#", "a.#."]),
            (".a", &["*.*", ".a", "#.a.#", "*.#.*", ".#"]),
            (".b", &["*.*", "#.b", "*.#.*", ".#"]),
            (".", &["*.*", ".", "*.#.*", ".#"]),
            ("..", &["..", "*.#.*", ".#"]),
            ("...", &["*.#.*", ".#"]),
        ];
        let topic = topic(&binding_keys);
        for (routing_key, keys) in cases {
            let mut expected: Vec<_> = keys.iter().chain(&any).copied().collect();
            expected.extend(one_or_more.iter().filter(|_| !routing_key.is_empty()));
            expected.sort_unstable();
            assert_eq!(matching(&topic, routing_key), expected, "routing key {routing_key:?}");
        }
    }

    #[test]
    fn a8_topic_more_than_16_hashes_are_refused() {
        let hashes = |count| vec!["#"; count].join(".a.");
        assert_eq!(validate(&hashes(16)), Ok(()));
        let text =
            format!("Topic binding key '{}' uses 17 '#' wildcards, at most 16 are allowed", hashes(17));
        assert_eq!(validate(&hashes(17)), Err(InvalidBinding { text }));
        assert_eq!(validate(&"a#.".repeat(30)), Ok(()));
    }

    /// The ways to spread the words over the `#` are many millions of millions of millions in the second case.
    #[test]
    fn many_hashes_match_a_long_key_in_few_steps() {
        for (hashes, words) in [(4, 40), (16, 128)] {
            let key = vec!["#"; hashes].join(".a.");
            let mut topic = Topic::default();
            topic.insert(&key, 1);
            topic.insert(&format!("{key}.b"), 2);
            let mut visits = Vec::new();
            topic.route(&vec!["a"; words].join("."), &mut |destination| visits.push(*destination));
            assert_eq!(visits, [1]);
            topic.route(&format!("{}.b", vec!["a"; words].join(".")), &mut |destination| {
                visits.push(*destination)
            });
            assert_eq!(visits, [1, 1, 2]);
        }
    }

    #[test]
    fn words_beyond_the_inline_ones_match_too() {
        for count in WORDS_INLINE - 1..=WORDS_INLINE + 2 {
            let key = vec!["word"; count].join(".");
            let mut topic = Topic::default();
            topic.insert(&key, count);
            let mut visits = Vec::new();
            topic.route(&key, &mut |destination| visits.push(*destination));
            topic.route(&format!("{key}.word"), &mut |destination| visits.push(*destination));
            assert_eq!(visits, [count]);
        }
    }

    #[test]
    fn removal_leaves_no_node_and_no_word_behind() {
        let kept = ["", "a.b", "#.c"];
        let mut topic = topic(&kept);
        let memory = |topic: &Topic<_>| {
            (topic.nodes.len() - topic.free_nodes.len(), topic.edges.len(), topic.words.len())
        };
        let before = memory(&topic);
        let keys = ["a", "a.b.c", "a.*.c", "a.#.c", "x.y.z", "*", "#", "#.#", "#.c.#", "..", "a.b"];
        for _ in 0..3 {
            keys.iter().for_each(|key| topic.insert(key, "gone"));
            keys.iter().for_each(|key| topic.remove(key, &"gone"));
            assert_eq!(memory(&topic), before);
            assert_eq!(matching(&topic, "a.b"), ["a.b"]);
            assert_eq!(matching(&topic, ""), [""]);
        }
        let nodes = topic.nodes.len();
        keys.iter().for_each(|key| topic.insert(key, "again"));
        assert_eq!(topic.nodes.len(), nodes, "nodes are used again");
    }
}
