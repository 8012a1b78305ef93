//! Accounts and sessions of the small system.

use super::{Person, System};
use crate::history::{
    call::{Effect, Operation, Outcome},
    log::Events,
};
use domain::{
    account, email,
    id::{AccountId, EmailId, RefreshId, SessionId},
    session,
    subject::Kind,
};

impl System {
    pub fn register(&mut self, client: usize) {
        let [account, session, refresh] = [(); 3].map(|()| self.random.id());
        let (email, command, at) = (format!("c{client}@example.com"), self.command(), self.now());
        let claimed = email::Event::Claimed {
            account: AccountId::new(account),
            at,
        };
        let address = EmailId::of(&email).uuid();
        self.append(Kind::Email, address, &command, Events::Email(vec![claimed]));
        let registered = account::Event::Registered {
            account: AccountId::new(account),
            email: email.clone(),
            name: "Mia".into(),
            password_hash: "$argon2id$".into(),
            tier: account::Tier::Free,
            at,
        };
        self.append(
            Kind::Account,
            account,
            &command,
            Events::Account(vec![registered]),
        );
        let opened = session::Event::Opened {
            session: SessionId::new(session),
            account: AccountId::new(account),
            refresh: RefreshId::new(refresh),
            device_id: None,
            device_name: None,
            at,
        };
        let seq = self.append(
            Kind::Session,
            session,
            &command,
            Events::Session(vec![opened]),
        );
        let (queries, token) = (Vec::new(), Some(seq));
        let person = Person {
            account,
            session,
            refresh,
            generation: 0,
            queries,
            seen: seq,
            token,
        };
        self.clients.push(person);
        let effect = Effect::Account { account, session };
        let outcome = Outcome::Accepted {
            effect,
            token: Some(seq),
        };
        self.call(client, Operation::Register { email }, outcome);
    }

    pub fn refresh(&mut self, client: usize) {
        let (fresh, at, command) = (self.random.id(), self.now(), self.command());
        let person = &mut self.clients[client];
        let (session, superseded) = (person.session, person.refresh);
        person.refresh = fresh;
        person.generation += 1;
        let event = session::Event::Refreshed {
            session: SessionId::new(session),
            superseded: RefreshId::new(superseded),
            refresh: RefreshId::new(fresh),
            generation: person.generation,
            at,
        };
        let seq = self.append(
            Kind::Session,
            session,
            &command,
            Events::Session(vec![event]),
        );
        self.clients[client].token = Some(seq);
        let outcome = Outcome::Accepted {
            effect: Effect::Rotated(fresh),
            token: Some(seq),
        };
        self.call(
            client,
            Operation::Refresh {
                session,
                superseded,
            },
            outcome,
        );
    }
}
