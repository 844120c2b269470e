//! Every interleaving, every crash: writers, copies, restores and prunes on one small repository.
//!
//! The actors below take one request to the store at a time and decide with the functions of
//! `backstay::store::protocol`, which are those of the program. All orders of their steps are
//! explored, each actor may die before each of its steps, any open intent may be taken for dead at
//! any time, replies of commits may be lost, and the grace period may end at any time.
//!
//! Three things are assumed. A listing shows what was created before it: the store's promise. And a
//! prune acts on what it saw for a short time only, far shorter than the grace period: when a mark
//! is old enough, whoever made it no longer deletes manifests because of it, and a finished mark
//! is removed only when nobody who looked at it may still be deleting.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use backstay::store::protocol::{Claim, Survey, may_expire, may_refer, to_delete, to_mark};

type Backup = u8;
type Object = (Backup, u8);
type Objects = BTreeSet<Object>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Commit {
    Needs(Objects),
    Tombstone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    objects: Objects,
    commits: BTreeMap<Backup, Commit>,
    /// Intents and holds, by who made them.
    claims: BTreeMap<Backup, Claim<Backup, Object>>,
    marks: BTreeMap<u8, Objects>,
    actors: Vec<Actor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Actor {
    Writer {
        id: Backup,
        step: Writing,
    },
    /// One that does not heed marks shows that the model finds what it is for.
    Copy {
        id: Backup,
        needs: Objects,
        heeds_marks: bool,
        step: Copying,
    },
    Reader {
        id: Backup,
        backup: Backup,
        step: Reading,
    },
    Prune {
        id: u8,
        rounds: u8,
        step: Pruning,
    },
    /// Finished, given up or killed.
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Writing {
    ChooseBase,
    Announce(Option<Backup>),
    ListMarks(Option<Backup>),
    ReadBase(Option<Backup>, Objects),
    Store(Objects),
    Commit(Objects),
    Withdraw,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Copying {
    Announce,
    ListMarks,
    Store,
    Commit,
    Withdraw,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Reading {
    Hold,
    ReadManifest,
    Read(Objects),
    Release,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Pruning {
    ListMarks,
    ListObjects(BTreeMap<u8, Objects>),
    ListClaims(BTreeMap<u8, Objects>, Objects),
    Bury(BTreeMap<u8, Objects>, Objects, Vec<(Backup, Claim<Backup, Object>)>),
    ListCommits(BTreeMap<u8, Objects>, Objects, Vec<(Backup, Claim<Backup, Object>)>),
    Delete { marks: Vec<(u8, Objects)>, mark: Objects, expired: BTreeSet<Backup> },
    Mark { mark: Objects, expired: BTreeSet<Backup> },
    ListClaimsAgain { expired: BTreeSet<Backup> },
    Expire { left: Vec<(Backup, bool)> },
    BuryExpired { backup: Backup, left: Vec<(Backup, bool)> },
}

impl World {
    /// A full backup 0 and an incremental 1 that shares an object with it.
    fn new(actors: Vec<Actor>) -> Self {
        let objects = Objects::from([(0, 0), (0, 1), (1, 0)]);
        let commits = BTreeMap::from([
            (0, Commit::Needs(Objects::from([(0, 0), (0, 1)]))),
            (1, Commit::Needs(Objects::from([(0, 0), (1, 0)]))),
        ]);
        Self { objects, commits, claims: BTreeMap::new(), marks: BTreeMap::new(), actors }
    }

    fn needs(&self, backup: Backup) -> Option<&Objects> {
        match self.commits.get(&backup) {
            Some(Commit::Needs(needs)) => Some(needs),
            _ => None,
        }
    }

    fn newest(&self) -> Option<Backup> {
        self.commits.keys().rev().find(|backup| self.needs(**backup).is_some()).copied()
    }

    fn marked(&self) -> Objects {
        self.marks.values().flatten().copied().collect()
    }

    fn check(&self) -> Result<(), String> {
        for (backup, commit) in &self.commits {
            if let Commit::Needs(needs) = commit
                && let Some(lost) = needs.iter().find(|object| !self.objects.contains(object))
            {
                return Err(format!("backup {backup} lost {lost:?}"));
            }
        }
        Ok(())
    }

    /// Every world that one step of one actor leads to.
    fn next(&self) -> Result<Vec<Self>, String> {
        let mut worlds = Vec::new();
        for (at, actor) in self.actors.iter().enumerate() {
            if *actor == Actor::Gone {
                continue;
            }
            for (mut world, next) in self.step(actor)? {
                world.actors[at] = next;
                worlds.push(world);
            }
            // Killed here.
            let mut world = self.clone();
            world.actors[at] = Actor::Gone;
            worlds.push(world);
        }
        Ok(worlds)
    }

    fn step(&self, actor: &Actor) -> Result<Vec<(Self, Actor)>, String> {
        match actor {
            Actor::Writer { id, step } => Ok(self.write(*id, step)),
            Actor::Copy { id, needs, heeds_marks, step } => {
                Ok(self.copy(*id, needs, *heeds_marks, step))
            }
            Actor::Reader { id, backup, step } => self.read(*id, *backup, step),
            Actor::Prune { id, rounds, step } => Ok(self.prune(*id, *rounds, step)),
            Actor::Gone => Ok(Vec::new()),
        }
    }

    fn write(&self, id: Backup, step: &Writing) -> Vec<(Self, Actor)> {
        let mut world = self.clone();
        let to = |world: Self, step| (world, Actor::Writer { id, step });
        match step {
            Writing::ChooseBase => vec![to(world, Writing::Announce(self.newest()))],
            Writing::Announce(base) => {
                let claim = Claim { writes: Some(id), relies_on: *base, objects: Objects::new() };
                world.claims.insert(id, claim);
                vec![to(world, Writing::ListMarks(*base))]
            }
            Writing::ListMarks(base) => {
                let marked = self.marked();
                vec![to(world, Writing::ReadBase(*base, marked))]
            }
            Writing::ReadBase(base, marked) => {
                let Some(base) = base else {
                    return vec![to(world, Writing::Store(Objects::new()))];
                };
                let Some(needs) = self.needs(*base) else {
                    world.claims.remove(&id);
                    return vec![(world, Actor::Gone)];
                };
                let usable: Objects =
                    needs.iter().filter(|object| may_refer(*object, marked)).copied().collect();
                // Either nothing changed, or the file in the first object did.
                let changed: Objects = usable.iter().skip(1).copied().collect();
                vec![to(world.clone(), Writing::Store(usable)), to(world, Writing::Store(changed))]
            }
            Writing::Store(shared) => {
                world.objects.insert((id, 0));
                let needs = shared.iter().copied().chain([(id, 0)]).collect();
                vec![to(world, Writing::Commit(needs))]
            }
            Writing::Commit(needs) => match self.commits.get(&id) {
                None => {
                    world.commits.insert(id, Commit::Needs(needs.clone()));
                    // The reply arrives, or it is lost and the request is sent again.
                    vec![
                        to(world.clone(), Writing::Withdraw),
                        to(world, Writing::Commit(needs.clone())),
                    ]
                }
                Some(Commit::Needs(_)) => vec![to(world, Writing::Withdraw)],
                Some(Commit::Tombstone) => vec![(world, Actor::Gone)],
            },
            Writing::Withdraw => {
                world.claims.remove(&id);
                vec![(world, Actor::Gone)]
            }
        }
    }

    fn copy(
        &self,
        id: Backup,
        needs: &Objects,
        heeds_marks: bool,
        step: &Copying,
    ) -> Vec<(Self, Actor)> {
        let mut world = self.clone();
        let to = |world: Self, step| {
            (world, Actor::Copy { id, needs: needs.clone(), heeds_marks, step })
        };
        match step {
            Copying::Announce => {
                let claim = Claim { writes: Some(id), relies_on: None, objects: needs.clone() };
                world.claims.insert(id, claim);
                vec![to(world, Copying::ListMarks)]
            }
            Copying::ListMarks => {
                let marked = self.marked();
                if !heeds_marks || needs.iter().all(|object| may_refer(object, &marked)) {
                    return vec![to(world, Copying::Store)];
                }
                // The intent stays, and another attempt is made.
                vec![to(world, Copying::Announce)]
            }
            Copying::Store => match needs.iter().find(|object| !self.objects.contains(object)) {
                Some(missing) => {
                    world.objects.insert(*missing);
                    vec![to(world, Copying::Store)]
                }
                None => vec![to(world, Copying::Commit)],
            },
            Copying::Commit => match self.commits.get(&id) {
                None => {
                    world.commits.insert(id, Commit::Needs(needs.clone()));
                    vec![to(world.clone(), Copying::Withdraw), to(world, Copying::Commit)]
                }
                Some(Commit::Needs(_)) => vec![to(world, Copying::Withdraw)],
                Some(Commit::Tombstone) => vec![(world, Actor::Gone)],
            },
            Copying::Withdraw => {
                world.claims.remove(&id);
                vec![(world, Actor::Gone)]
            }
        }
    }

    fn read(
        &self,
        id: Backup,
        backup: Backup,
        step: &Reading,
    ) -> Result<Vec<(Self, Actor)>, String> {
        let mut world = self.clone();
        let to = |world: Self, step| Ok(vec![(world, Actor::Reader { id, backup, step })]);
        match step {
            Reading::Hold => {
                let claim =
                    Claim { writes: None, relies_on: Some(backup), objects: Objects::new() };
                world.claims.insert(id, claim);
                to(world, Reading::ReadManifest)
            }
            Reading::ReadManifest => match self.needs(backup) {
                Some(needs) => to(world, Reading::Read(needs.clone())),
                None => to(world, Reading::Release),
            },
            Reading::Read(left) => {
                let mut left = left.clone();
                match left.pop_first() {
                    Some(object) if self.objects.contains(&object) => {
                        to(world, Reading::Read(left))
                    }
                    Some(object) => Err(format!("a restore of {backup} missed {object:?}")),
                    None => to(world, Reading::Release),
                }
            }
            Reading::Release => {
                world.claims.remove(&id);
                Ok(vec![(world, Actor::Gone)])
            }
        }
    }

    fn prune(&self, id: u8, rounds: u8, step: &Pruning) -> Vec<(Self, Actor)> {
        let mut world = self.clone();
        let to = |world: Self, step| (world, Actor::Prune { id, rounds, step });
        match step {
            // The grace period is over, or not.
            Pruning::ListMarks => vec![
                to(world.clone(), Pruning::ListObjects(BTreeMap::new())),
                to(world, Pruning::ListObjects(self.old_marks())),
            ],
            Pruning::ListObjects(marks) => {
                vec![to(world, Pruning::ListClaims(marks.clone(), self.objects.clone()))]
            }
            Pruning::ListClaims(marks, objects) => {
                let claims = self.claims.iter().map(|(id, claim)| (*id, claim.clone())).collect();
                vec![
                    // All open writers are taken for dead, or none is.
                    to(world.clone(), Pruning::Bury(marks.clone(), objects.clone(), claims)),
                    to(
                        world,
                        Pruning::ListCommits(
                            marks.clone(),
                            objects.clone(),
                            self.claims.iter().map(|(id, claim)| (*id, claim.clone())).collect(),
                        ),
                    ),
                ]
            }
            Pruning::Bury(marks, objects, claims) => {
                let open = claims
                    .iter()
                    .find(|(id, claim)| claim.writes.is_some() && !self.commits.contains_key(id));
                if let Some((id, _)) = open {
                    world.commits.insert(*id, Commit::Tombstone);
                    return vec![to(world, step.clone())];
                }
                let next = Pruning::ListCommits(marks.clone(), objects.clone(), claims.clone());
                vec![to(world, next)]
            }
            Pruning::ListCommits(marks, objects, claims) => {
                let survey = self.survey(objects, claims);
                let newest = self.newest();
                let old = survey.needs.keys().filter(|id| Some(**id) != newest).copied();
                // Their time has come, or not.
                [old.collect(), BTreeSet::new()]
                    .into_iter()
                    .map(|expired: BTreeSet<Backup>| {
                        let expired = may_expire(&expired, &survey.claims, &BTreeSet::new());
                        let delete = |marked: &Objects| to_delete(marked, &survey).ok();
                        let marks = marks
                            .iter()
                            .filter_map(|(id, marked)| Some((*id, delete(marked)?)))
                            .collect();
                        let mark = to_mark(&survey, &expired).unwrap_or_default();
                        to(world.clone(), Pruning::Delete { marks, mark, expired })
                    })
                    .collect()
            }
            Pruning::Delete { marks, mark, expired } => {
                let mut marks = marks.clone();
                let Some((number, mut objects)) = marks.pop() else {
                    let (mark, expired) = (mark.clone(), expired.clone());
                    return vec![to(world, Pruning::Mark { mark, expired })];
                };
                match objects.pop_first() {
                    Some(object) => {
                        world.objects.remove(&object);
                        marks.push((number, objects));
                    }
                    // The assumption on the time window.
                    None if self.others_hold(id, number) => return Vec::new(),
                    None => drop(world.marks.remove(&number)),
                }
                let (mark, expired) = (mark.clone(), expired.clone());
                vec![to(world, Pruning::Delete { marks, mark, expired })]
            }
            Pruning::Mark { mark, expired } => {
                let mark: Objects = mark.intersection(&self.objects).copied().collect();
                if !mark.is_empty() {
                    world.marks.insert(id * 10 + rounds, mark);
                }
                vec![to(world, Pruning::ListClaimsAgain { expired: expired.clone() })]
            }
            Pruning::ListClaimsAgain { expired } => {
                let claims: Vec<_> = self.claims.values().cloned().collect();
                let left = may_expire(expired, &claims, &BTreeSet::new())
                    .into_iter()
                    .map(|backup| (backup, self.claims.contains_key(&backup)))
                    .collect();
                vec![to(world, Pruning::Expire { left })]
            }
            Pruning::Expire { left } => {
                let mut left = left.clone();
                match left.pop() {
                    Some((backup, has_intent)) => {
                        if self.needs(backup).is_some() {
                            world.commits.remove(&backup);
                        }
                        if has_intent {
                            return vec![to(world, Pruning::BuryExpired { backup, left })];
                        }
                        vec![to(world, Pruning::Expire { left })]
                    }
                    None if rounds > 1 => {
                        let step = Pruning::ListMarks;
                        vec![(world, Actor::Prune { id, rounds: rounds - 1, step })]
                    }
                    None => vec![(world, Actor::Gone)],
                }
            }
            Pruning::BuryExpired { backup, left } => {
                world.commits.entry(*backup).or_insert(Commit::Tombstone);
                vec![to(world, Pruning::Expire { left: left.clone() })]
            }
        }
    }

    fn survey(
        &self,
        objects: &Objects,
        claims: &[(Backup, Claim<Backup, Object>)],
    ) -> Survey<Backup, Object> {
        let open = |(id, claim): &(Backup, Claim<Backup, Object>)| {
            (claim.writes.is_none() || !self.commits.contains_key(id)).then(|| claim.clone())
        };
        Survey {
            stored: objects.iter().map(|object| (*object, object.0)).collect(),
            claims: claims.iter().filter_map(open).collect(),
            needs: self
                .commits
                .keys()
                .filter_map(|backup| Some((*backup, self.needs(*backup)?.clone())))
                .collect(),
        }
    }

    /// Marks whose grace period can be over: whoever made it is done with what it announced.
    fn old_marks(&self) -> BTreeMap<u8, Objects> {
        let is_old = |number: &u8| {
            !self.actors.iter().any(|actor| match actor {
                Actor::Prune {
                    id,
                    rounds,
                    step:
                        Pruning::ListClaimsAgain { .. }
                        | Pruning::Expire { .. }
                        | Pruning::BuryExpired { .. },
                } => id * 10 + rounds == *number,
                _ => false,
            })
        };
        let marks = self.marks.iter().filter(|(number, _)| is_old(number));
        marks.map(|(number, objects)| (*number, objects.clone())).collect()
    }

    /// Whether another prune looked at this mark and may still delete what is in it.
    fn others_hold(&self, own: u8, number: u8) -> bool {
        self.actors.iter().any(|actor| {
            let Actor::Prune { id, step, .. } = actor else { return false };
            let holds = match step {
                Pruning::ListObjects(marks)
                | Pruning::ListClaims(marks, _)
                | Pruning::Bury(marks, ..)
                | Pruning::ListCommits(marks, ..) => marks.contains_key(&number),
                Pruning::Delete { marks, .. } => marks.iter().any(|(id, _)| *id == number),
                _ => false,
            };
            *id != own && holds
        })
    }

    /// What is left when nobody acts any more: two prunes, the second after the grace period.
    fn is_clean_after_prunes(&self) -> bool {
        let mut world = self.clone();
        world.claims.retain(|_, claim| claim.writes.is_some());
        for id in [8, 9] {
            let mut actor = Actor::Prune { id, rounds: 1, step: Pruning::ListMarks };
            while actor != Actor::Gone {
                let mut ways = world.prune_ways(&actor);
                // The last way of the first choice has the grace over, the first of the others
                // buries the dead; see `prune`.
                let listing = matches!(actor, Actor::Prune { step: Pruning::ListMarks, .. });
                let way = if listing { ways.len() - 1 } else { 0 };
                (world, actor) = ways.swap_remove(way);
            }
        }
        let needed: Objects =
            world.commits.keys().filter_map(|id| world.needs(*id)).flatten().copied().collect();
        world.check().is_ok() && world.objects == needed
    }

    fn prune_ways(&self, actor: &Actor) -> Vec<(Self, Actor)> {
        self.step(actor).expect("a prune finds nothing missing")
    }
}

/// Explores everything reachable; returns how many worlds there are, or what was lost in one.
fn explore(actors: Vec<Actor>) -> Result<usize, String> {
    let start = World::new(actors);
    let mut seen = HashSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(world) = open.pop_front() {
        let next = world.next().map_err(|lost| format!("{lost}: {world:#?}"))?;
        if next.is_empty() && !world.is_clean_after_prunes() {
            return Err(format!("something stays for ever: {world:#?}"));
        }
        for world in next {
            world.check().map_err(|lost| format!("{lost}: {world:#?}"))?;
            if !seen.contains(&world) {
                seen.insert(world.clone());
                open.push_back(world);
            }
        }
    }
    Ok(seen.len())
}

fn sound(actors: Vec<Actor>) {
    let worlds = explore(actors).unwrap_or_else(|lost| panic!("{lost}"));
    assert!(worlds > 1000, "only {worlds} worlds");
}

fn writer(id: Backup) -> Actor {
    Actor::Writer { id, step: Writing::ChooseBase }
}

fn prune(id: u8, rounds: u8) -> Actor {
    Actor::Prune { id, rounds, step: Pruning::ListMarks }
}

/// A copy of backup 7 that needs what lies there of backup 0, as its source's repository has it.
fn copy(heeds_marks: bool) -> Actor {
    let needs = Objects::from([(0, 1), (7, 0)]);
    Actor::Copy { id: 7, needs, heeds_marks, step: Copying::Announce }
}

#[test]
fn a_writer_beside_prunes_loses_nothing() {
    sound(vec![writer(2), prune(0, 3)]);
}

#[test]
fn two_writers_beside_a_prune_lose_nothing() {
    sound(vec![writer(2), writer(3), prune(0, 2)]);
}

#[test]
fn a_writer_beside_two_prunes_loses_nothing() {
    sound(vec![writer(2), prune(0, 2), prune(1, 1)]);
}

#[test]
fn a_restore_beside_two_prunes_misses_nothing() {
    let reader = Actor::Reader { id: 100, backup: 0, step: Reading::Hold };
    sound(vec![reader, prune(0, 2), prune(1, 1)]);
}

#[test]
fn a_copy_beside_two_prunes_loses_nothing() {
    sound(vec![copy(true), prune(0, 2), prune(1, 1)]);
}

#[test]
fn the_model_sees_what_a_careless_copy_loses() {
    let lost = explore(vec![copy(false), prune(0, 2)]).expect_err("nothing was lost");
    assert!(lost.starts_with("backup 7 lost"), "{lost}");
}
