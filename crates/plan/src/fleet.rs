//! The GPUs that there are: nodes, what stands in each, and what each kind of GPU can.
use crate::spec::{NodeSpec, names};
use cleave_api::{Engine, Inventory, Vendor};
use cleave_inventory::modes::{self, Card, MigMode, capability};
use cleave_inventory::{Model, Table, geometry, matrix};
use cleave_policy::mig::Geometry;
use cleave_policy::pack::{Amount, WHOLE};
use cleave_policy::topology::{Cpus, Links};

/// Most GPUs of a node that is written down and not read.
const MOST_GPUS: u32 = 64;

/// GPUs that are alike in all that decides on what goes there.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    /// The model.
    pub model: String,
    /// The model's name in the device table, where it is known.
    pub row: Option<String>,
    /// Who made it.
    pub vendor: Vendor,
    /// Memory, in MiB.
    pub memory_mib: u64,
    /// CUDA compute capability.
    pub capability: Option<(u32, u32)>,
    /// What MIG instances it can have, if it has MIG.
    pub geometry: Option<Geometry>,
    /// MIG mode is on or off now; absent where nobody asked.
    pub mig: Option<bool>,
    /// The engine that it is kept for; `auto` for any.
    pub engine: Engine,
    /// The tier that it is for; absent for any.
    pub tier: Option<String>,
    /// Where it stands.
    pub location: Option<String>,
    /// The name in the file that its nodes have together.
    pub nodes: String,
    /// The most that it draws: its power limit, else what its maker says.
    pub watts: Option<f64>,
    /// Dense FP16 TFLOPS.
    pub tflops: Option<f64>,
    /// Memory bandwidth, in GB/s.
    pub bandwidth_gb_s: Option<f64>,
}

/// A node's build.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Its GPUs: the number of each on its node, and its kind's place in [`Fleet::kinds`].
    pub cards: Vec<(u32, usize)>,
    /// How they are linked.
    pub links: Links,
    /// The processors near each; empty where that is not known.
    pub cpus: Vec<Cpus>,
}

/// Nodes, in groups of those that are alike.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// Kinds of GPUs.
    pub kinds: Vec<Kind>,
    /// Builds.
    pub shapes: Vec<Shape>,
    /// The name of each node and its build's place in `shapes`; those of one build stand together.
    pub nodes: Vec<(String, usize)>,
}

impl Kind {
    /// Why it doesn't run `engine`: it is kept for another, or can't in principle; `None` if it does.
    pub fn obstacle(&self, engine: Engine) -> Option<String> {
        let model = &self.model;
        match engine {
            Engine::Auto => None,
            _ if ![Engine::Auto, engine].contains(&self.engine) => {
                Some(format!("{model} is kept for engine {}", self.engine))
            }
            _ if self.given_whole() && engine != Engine::Whole => {
                Some(format!("cleave divides NVIDIA's GPUs only, and gives {model} whole"))
            }
            _ => self.lacks(engine),
        }
    }

    /// All of it.
    pub(crate) fn whole(&self) -> Amount {
        Amount { memory: self.memory_mib, compute: WHOLE, bandwidth: WHOLE }
    }

    /// Whether cleave gives it to one workload whole, because nothing divides it.
    pub fn given_whole(&self) -> bool {
        self.vendor != Vendor::Nvidia
    }

    /// Why its hardware can't run `engine`, whether or not cleave has it there; `None` if it can.
    pub fn lacks(&self, engine: Engine) -> Option<String> {
        let model = &self.model;
        match engine {
            Engine::Auto | Engine::Temporal => None,
            Engine::Whole => {
                (!self.given_whole()).then(|| format!("{model} can be divided; a slice may have all of it"))
            }
            Engine::Mig if self.geometry.is_none() => Some(format!("{model} has no MIG")),
            Engine::Mig => None,
            Engine::Spatial => {
                let card = Card { vendor: self.vendor, capability: self.capability, mig: MigMode::Unknown };
                card.spatial().map(|why| format!("{model}: {why}"))
            }
        }
    }

    /// Whether this is the model that is meant by a name.
    pub fn is(&self, name: &str) -> bool {
        same_model(&self.model, name) || self.row.as_deref().is_some_and(|row| same_model(row, name))
    }

    fn of(row: &Model) -> Result<Self, String> {
        let bytes = row.memory_bytes().ok_or_else(|| format!("the memory of {} is not known", row.name))?;
        Ok(Self {
            model: row.name.clone(),
            row: Some(row.name.clone()),
            vendor: row.vendor,
            memory_mib: bytes >> 20,
            capability: row.cc.as_deref().and_then(capability),
            geometry: row.mig.as_deref().and_then(|name| Table::get().geometry(name)).map(|one| one.known_shape().0),
            mig: None,
            engine: Engine::Auto,
            tier: None,
            location: None,
            nodes: String::new(),
            // Figures of the card count for each of its GPUs in equal parts.
            watts: row.tdp_watts.map(|watts| f64::from(watts) / f64::from(row.dies.max(1))),
            tflops: row.tflops.or(row.fp32_tflops).map(|tflops| tflops / f64::from(row.dies.max(1))),
            bandwidth_gb_s: row.bandwidth_gb_s,
        })
    }
}

/// Whether two names are of one model.
pub fn same_model(one: &str, other: &str) -> bool {
    let row = |name: &str| Table::get().named(name).map(|row| row.name.as_str());
    one.eq_ignore_ascii_case(other) || row(one).is_some() && row(one) == row(other)
}

/// The GPUs of a node as they are written: `8xH100`, or several such joined by `+`, each with the engine that it is kept for
/// after a comma.
pub fn gpus(text: &str) -> Result<Vec<(u32, Kind)>, String> {
    groups(text, MOST_GPUS)
}

/// The same of GPUs that need not stand in one node, at most `most` in each group.
pub fn groups(text: &str, most: u32) -> Result<Vec<(u32, Kind)>, String> {
    let group = |text: &str| {
        let (what, engine) = text.trim().split_once(',').unwrap_or((text.trim(), "auto"));
        let engine: Engine = engine.trim().parse()?;
        let (count, row) = Table::get().counted(what, most)?;
        let kind = Kind { engine, ..Kind::of(row)? };
        kind.obstacle(engine).map_or(Ok((count, kind)), |why| Err(format!("{text}: {why}")))
    };
    text.split('+').map(group).collect()
}

impl Fleet {
    /// Nodes of this kind, with GPUs as they are written.
    pub fn add(&mut self, node: &NodeSpec, gpus: Vec<(u32, Kind)>) -> Result<(), String> {
        let mut shape = Shape::default();
        for (count, kind) in gpus {
            let engine = if kind.engine == Engine::Auto { node.engine } else { kind.engine };
            if let Some(why) = kind.obstacle(engine) {
                return Err(why);
            }
            let kind = self.kind(Kind {
                engine,
                tier: node.tier.clone(),
                location: node.location.clone(),
                nodes: node.name.clone(),
                ..kind
            });
            for _ in 0..count {
                shape.cards.push((shape.cards.len() as u32, kind));
            }
        }
        // Nothing is known of their links, not even that there are none.
        shape.links = Links::new(shape.cards.len());
        shape.cpus = vec![Cpus::default(); shape.cards.len()];
        self.stand(node, shape);
        Ok(())
    }

    /// Nodes of this kind, with GPUs as they are written and links as an inventory has them, in the same order.
    pub fn add_linked(&mut self, node: &NodeSpec, gpus: Vec<(u32, Kind)>, inventory: &Inventory) -> Result<(), String> {
        let devices = inventory.devices.len();
        self.add(node, gpus)?;
        let Some(shape) = self.shapes.last_mut() else { return Ok(()) };
        if shape.cards.len() != devices {
            return Err(format!("{devices} GPUs are in it, and {} under `gpus`", shape.cards.len()));
        }
        let labels: Vec<&str> = inventory.devices.iter().map(|device| device.label.as_str()).collect();
        shape.links = matrix::links(inventory, &labels);
        shape.cpus = (0..devices).map(|at| matrix::near(inventory, &[at])).collect();
        Ok(())
    }

    /// Nodes of this kind, with what an inventory has. What is said is left out: devices whose memory is not known, or that can't be given.
    pub fn add_inventory(&mut self, node: &NodeSpec, inventory: &Inventory) -> Result<Vec<String>, String> {
        let mut left_out = Vec::new();
        let mut shape = Shape::default();
        let mut members = Vec::new();
        for (at, device) in inventory.devices.iter().enumerate() {
            if let Some(why) = modes::whole(device).filter(|_| device.vendor != Vendor::Nvidia) {
                left_out.push(format!("{}: {}: {why}", node.name, device.label));
                continue;
            }
            let row = Table::get().model(device.pci_id.as_deref(), &device.name, device.memory_total_bytes);
            let known = row.and_then(|row| Kind::of(row).ok());
            let bytes = device.memory_total_bytes.or(known.as_ref().map(|kind| kind.memory_mib << 20));
            let Some(bytes) = bytes else {
                left_out.push(format!("{}: {}: its memory is not known", node.name, device.label));
                continue;
            };
            let kind = Kind {
                model: device.name.clone(),
                row: row.map(|row| row.name.clone()),
                vendor: device.vendor,
                memory_mib: bytes >> 20,
                capability: (device.compute_capability.as_deref().and_then(capability))
                    .or(known.as_ref().and_then(|kind| kind.capability)),
                geometry: match &device.mig {
                    Some(mig) if !mig.profiles.is_empty() => Some(geometry(&mig.profiles)),
                    _ => known.as_ref().and_then(|kind| kind.geometry.clone()),
                },
                mig: device.mig.as_ref().map(|mig| mig.enabled),
                engine: node.engine,
                tier: node.tier.clone(),
                location: node.location.clone(),
                nodes: node.name.clone(),
                watts: device.power_limit_watts.or(known.as_ref().and_then(|kind| kind.watts)),
                tflops: known.as_ref().and_then(|kind| kind.tflops),
                bandwidth_gb_s: known.as_ref().and_then(|kind| kind.bandwidth_gb_s),
            };
            if let Some(why) = kind.obstacle(node.engine) {
                return Err(format!("node {}: engine: {why}", node.name));
            }
            let kind = self.kind(kind);
            shape.cards.push((device.index, kind));
            shape.cpus.push(matrix::near(inventory, &[at]));
            members.push(device.label.as_str());
        }
        shape.links = matrix::links(inventory, &members);
        self.stand(node, shape);
        Ok(left_out)
    }

    fn kind(&mut self, kind: Kind) -> usize {
        let at = self.kinds.iter().position(|other| *other == kind).unwrap_or(self.kinds.len());
        if at == self.kinds.len() {
            self.kinds.push(kind);
        }
        at
    }

    fn stand(&mut self, node: &NodeSpec, shape: Shape) {
        let at = self.shapes.len();
        self.shapes.push(shape);
        self.nodes.extend(names(&node.name, node.count).into_iter().map(|name| (name, at)));
    }

    /// Without a node, or without one of its GPUs; false if there is none such.
    pub fn lose(&mut self, node: &str, gpu: Option<u32>) -> bool {
        let Some(at) = self.nodes.iter().position(|(name, _)| name == node) else { return false };
        let (name, shape) = self.nodes.remove(at);
        let Some(gpu) = gpu else { return true };
        let Some(old) = self.shapes.get(shape) else { return false };
        let rest: Vec<usize> = (0..old.cards.len()).filter(|slot| old.cards[*slot].0 != gpu).collect();
        if rest.len() == old.cards.len() {
            self.nodes.insert(at, (name, shape));
            return false;
        }
        let mut new = Shape { links: Links::new(rest.len()), ..Shape::default() };
        for (to, from) in rest.iter().enumerate() {
            new.cards.push(old.cards[*from]);
            new.cpus.push(old.cpus[*from].clone());
            for (other, slot) in rest.iter().enumerate().skip(to + 1) {
                new.links.set(to, other, old.links.get(*from, *slot));
            }
        }
        self.nodes.push((name, self.shapes.len()));
        self.shapes.push(new);
        true
    }

    /// How many GPUs there are of each kind.
    pub fn counts(&self) -> Vec<(u32, &Kind)> {
        let mut counts: Vec<(u32, &Kind)> = self.kinds.iter().map(|kind| (0, kind)).collect();
        let shapes = self.nodes.iter().filter_map(|(_, shape)| self.shapes.get(*shape));
        for (_, kind) in shapes.flat_map(|shape| &shape.cards) {
            if let Some((count, _)) = counts.get_mut(*kind) {
                *count += 1;
            }
        }
        counts
    }

    /// How many GPUs there are.
    pub fn count(&self) -> usize {
        self.nodes.iter().filter_map(|(_, shape)| self.shapes.get(*shape)).map(|shape| shape.cards.len()).sum()
    }
}
