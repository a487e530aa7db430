//! A check of the messages to one client over all its connections: to each topic go numbers that rise by one.

/// The counts of all clients together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    pub connections: usize,
    /// Connections with a cursor: the server said whether the missed messages follow.
    pub resumed: usize,
    pub refused: usize,
    /// Connections that the server ended or did not take.
    pub ended: usize,
    pub messages: usize,
    pub gaps: usize,
    /// Numbers that never came.
    pub lost: usize,
    /// Numbers that had come before, or came behind later ones.
    pub twice: usize,
    pub misdelivered: usize,
    /// Cursors that did not rise along a connection.
    pub fallen: usize,
}

impl DeliveryCounts {
    /// The counts that must be zero.
    pub fn faults(&self) -> [(&'static str, usize); 6] {
        [
            ("lost", self.lost),
            ("twice", self.twice),
            ("gaps", self.gaps),
            ("refused", self.refused),
            ("misdelivered", self.misdelivered),
            ("fallen", self.fallen),
        ]
    }

    /// As one line of text.
    pub fn to_line(self) -> String {
        let DeliveryCounts { connections, resumed, refused, ended, messages, .. } = self;
        let DeliveryCounts { gaps, lost, twice, misdelivered, fallen, .. } = self;
        format!(
            "{connections} {resumed} {refused} {ended} {messages} {gaps} {lost} {twice} {misdelivered} {fallen}"
        )
    }

    /// Reads such a line.
    pub fn from_line(line: &str) -> Option<DeliveryCounts> {
        let numbers: Vec<usize> = line.split(' ').map(str::parse).collect::<Result<_, _>>().ok()?;
        let [
            connections,
            resumed,
            refused,
            ended,
            messages,
            gaps,
            lost,
            twice,
            misdelivered,
            fallen,
        ] = numbers[..]
        else {
            return None;
        };
        Some(DeliveryCounts {
            connections,
            resumed,
            refused,
            ended,
            messages,
            gaps,
            lost,
            twice,
            misdelivered,
            fallen,
        })
    }
}

/// A topic of the client.
struct Topic {
    name: String,
    /// The last number received; 0: none yet. `None`: unknown after a refused cursor.
    last: Option<u64>,
}

/// The state of the check for one client.
pub struct DeliveryCheck {
    topics: Vec<Topic>,
    /// The cursor that it comes back with; empty before its first welcome.
    pub since: String,
}

impl DeliveryCheck {
    /// Nothing yet, of these topics.
    pub fn new(topics: impl Iterator<Item = String>) -> DeliveryCheck {
        let topics = topics.map(|name| Topic { name, last: Some(0) }).collect();
        DeliveryCheck { topics, since: String::new() }
    }

    /// Returns whether these numbers came last, one in each topic.
    pub fn is_at(&self, numbers: impl Iterator<Item = u64>) -> bool {
        self.topics.iter().zip(numbers).all(|(topic, number)| topic.last == Some(number))
    }

    /// The last numbers, for people.
    pub fn describe(&self) -> String {
        let topics = self.topics.iter().map(|topic| format!("{} {:?}", topic.name, topic.last));
        topics.collect::<Vec<_>>().join(", ")
    }

    /// A text frame came. Returns a sentence for people if something is wrong with it.
    pub fn on_text(&mut self, text: &str, seen: &mut DeliveryCounts) -> Option<String> {
        if text.starts_with(r#"{"op":"welcome""#) {
            return self.welcome(text, seen);
        }
        if text.starts_with(r#"{"op":"gap""#) {
            seen.gaps += 1;
            return Some(format!("a gap: {text}"));
        }
        if text.starts_with(r#"{"op":"#) {
            return Some(format!("nobody asked for {text}"));
        }
        seen.messages += 1;
        self.message(text, seen)
    }

    fn welcome(&mut self, text: &str, seen: &mut DeliveryCounts) -> Option<String> {
        let before = std::mem::replace(&mut self.since, text_of(text, "id").to_owned());
        if before.is_empty() {
            return None;
        }
        if text.contains(r#""resumed":true"#) {
            seen.resumed += 1;
            return None;
        }
        // It would ask its back end now, and go on from there.
        seen.refused += 1;
        self.topics.iter_mut().for_each(|topic| topic.last = None);
        Some(format!("refused what came since {before}: {text}"))
    }

    fn message(&mut self, text: &str, seen: &mut DeliveryCounts) -> Option<String> {
        let id = text_of(text, "id");
        let number = text.rsplit("\"data\":").next().and_then(|rest| rest.strip_suffix('}'));
        let number = number.and_then(|number| number.parse::<u64>().ok());
        let name = text_of(text, "topic");
        let topic = self.topics.iter_mut().find(|topic| topic.name == name);
        let (Some(topic), Some(number)) = (topic, number) else {
            seen.misdelivered += 1;
            return Some(format!("misdelivered: {text}"));
        };
        let mut fault = None;
        if id <= self.since.as_str() {
            seen.fallen += 1;
            fault = Some(format!("{text} after {}", self.since));
        }
        id.clone_into(&mut self.since);
        let last = topic.last.unwrap_or(number - 1);
        if number <= last {
            seen.twice += 1;
            return Some(format!("{text} after number {last}"));
        }
        if number > last + 1 {
            seen.lost += (number - last - 1) as usize;
            fault = Some(format!("{text} after number {last}"));
        }
        topic.last = Some(number);
        fault
    }
}

/// The text of a member of a JSON object, as the server writes it; empty if there is none.
fn text_of<'a>(json: &'a str, name: &str) -> &'a str {
    let start = format!("\"{name}\":\"");
    let rest = json.split_once(&start).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default()
}
