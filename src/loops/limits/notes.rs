//! A worker's side of the limits: what its parent must know, and what that answers.

use std::any::Any;
use std::io;

use crate::clock::Millis;
use crate::engine::feature::{Feature, FeatureEvent};
use crate::engine::router::Router;
use crate::engine::server::Server;
use crate::loops::hello::Hello;
use crate::loops::kinds::*;
use crate::loops::limits::addresses;
use crate::loops::limits::shares::ClientShare;
use crate::loops::limits::users::{self, UserNotes};
use crate::loops::link::{LinkFrame, MalformedLink};
use crate::loops::notes_in;
use crate::observe::descriptors;
use crate::upgrade::{StateError, StateReader, StateWriter};

/// The notes of a worker for its parent.
pub struct LimitNotes {
    pub users: UserNotes,
    share: ClientShare,
}

impl LimitNotes {
    const NAME: &str = "loops";

    /// The notes of a worker with this share of `clients_max`, if that is set.
    ///
    /// # Errors
    /// The descriptors leave no room for a client.
    pub fn new(lent: Option<usize>) -> io::Result<LimitNotes> {
        let room = descriptors::clients_max(0, 0)?;
        let share = ClientShare::new(room, lent.map(|lent| lent.min(room)));
        Ok(LimitNotes { users: UserNotes::default(), share })
    }

    /// The notes of this process, if it is a worker.
    pub fn of(router: &mut Router) -> Option<&mut LimitNotes> {
        LimitNotes::with_server(router).map(|(notes, _)| notes)
    }

    fn with_server(router: &mut Router) -> Option<(&mut LimitNotes, &mut Server)> {
        let Router { features, server, .. } = router;
        let feature = features.iter_mut().find(|one| one.name() == LimitNotes::NAME)?;
        let feature: &mut dyn Any = feature.as_mut();
        feature.downcast_mut().map(|notes| (notes, server))
    }
}

/// Begins to watch the addresses of a worker's clients.
pub fn watch_addresses(router: &mut Router, hello: &Hello) {
    let few = addresses::few(router.server.bounds().clients_per_address_max, hello.loops);
    router.addresses.counts.watch(few, (hello.loops - 1) * few);
}

/// Appends frames with all that the parent must know now.
pub fn write(router: &mut Router, out: &mut Vec<u8>) {
    if router.addresses.counts.has_changes() {
        addresses::write_changes(&mut router.addresses.counts, out);
    }
    if let Some((notes, server)) = LimitNotes::with_server(router) {
        notes.users.write(server.now().millis, out);
        notes.share.write(server, out);
    }
}

/// Returns whether the parent knows all that it must.
pub fn are_told(router: &Router) -> bool {
    notes_in::<LimitNotes>(router).is_none_or(|notes| notes.users.are_told())
}

/// Handles a frame of the parent.
///
/// # Errors
/// The frame is malformed, or not about limits.
pub fn take_order(router: &mut Router, frame: LinkFrame<'_>) -> Result<(), MalformedLink> {
    match frame.kind {
        ADDRESS_ELSEWHERE => addresses::take_elsewhere(&mut router.addresses.counts, frame),
        ADDRESS_CROWDED => {
            let Router { addresses: clients, server, .. } = router;
            addresses::take_crowd(frame, |id| clients.leave_crowd(server, id))
        }
        SHARE => {
            let found = LimitNotes::with_server(router);
            found.map_or(Ok(()), |(notes, server)| notes.share.take_order(server, frame))
        }
        _ => users::take_user_order(router, frame),
    }
}

impl Feature for LimitNotes {
    fn name(&self) -> &'static str {
        LimitNotes::NAME
    }

    fn on_event(&mut self, server: &mut Server, event: FeatureEvent<'_>) {
        match event {
            FeatureEvent::User(change) => self.users.on_change(change, server.now().millis),
            FeatureEvent::TurnEnd => self.users.end_turn(server),
            _ => {}
        }
    }

    fn save(&self, writer: &mut StateWriter<'_>) {
        self.share.save(writer);
    }

    fn restore(
        &mut self,
        server: &mut Server,
        reader: &mut StateReader<'_>,
    ) -> Result<(), StateError> {
        self.share.restore(server, reader);
        Ok(())
    }

    fn deadline(&self, server: &Server) -> Option<Millis> {
        [self.share.due(server), self.users.due()].into_iter().flatten().min()
    }
}
