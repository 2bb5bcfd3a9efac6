//! MIG layouts: what has to be done so that a GPU is what it shall be, and the doing. What is decided touches nothing that
//! is busy; what is done is undone if a later step fails.
use crate::gpu::{GpuInfo, MigFound, MigNow, Nvml, NvmlError};
use crate::process;
use cleave_api::{ErrorBody, ErrorCode, MigAction, MigLayout, MigPlace, MigStep};
use cleave_inventory::geometry;
use cleave_policy::layout::{Obstacle, Present, Step, Wanted};
use cleave_policy::mig::{Geometry, Instance, Mask};

/// A GPU with MIG, and who uses what of it.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    /// The GPU.
    pub info: &'a GpuInfo,
    /// What is there.
    pub now: MigNow,
    /// The processes that use it, each with the id of the instance that it is in.
    pub users: Vec<(u32, Option<u32>)>,
    /// The slices on it, each with the instance that it has: profile and start.
    pub slices: Vec<(String, Option<MigPlace>)>,
}

fn refused(message: String, hint: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::Refused, message, hint)
}

/// `slice a, process 17 (python)`, the first few.
fn list_users(slices: &[&str], pids: &[u32]) -> String {
    let slices = slices.iter().map(|name| format!("slice {name}"));
    let command = |pid: &u32| process::command(*pid).map_or(String::new(), |name| format!(" ({name})"));
    let all: Vec<String> = slices.chain(pids.iter().map(|pid| format!("process {pid}{}", command(pid)))).collect();
    match all.len() {
        0..=5 => all.join(", "),
        count => format!("{} and {} more", all.get(..5).unwrap_or_default().join(", "), count - 5),
    }
}

impl Card<'_> {
    /// What of it is an instance: its profile's name, and where it starts.
    pub fn place_of(&self, found: &MigFound) -> MigPlace {
        let profile = self.now.profiles.iter().find(|profile| profile.id == found.profile);
        MigPlace {
            profile: profile.map_or_else(|| format!("profile {}", found.profile), |profile| profile.name.clone()),
            start: Some(found.start),
        }
    }

    /// The memory slices that instances take.
    pub fn taken(&self, geometry: &Geometry) -> Mask {
        let mask = |found: &MigFound| {
            let profile = geometry.named(&self.place_of(found).profile)?;
            Some(geometry.mask(Instance { profile, start: u8::try_from(found.start).ok()? }))
        };
        self.now.instances.iter().filter_map(mask).fold(0, |taken, one| taken | one)
    }

    /// The slices and processes that have an instance.
    pub fn users_of(&self, found: &MigFound) -> (Vec<&str>, Vec<u32>) {
        let place = self.place_of(found);
        let slices = self.slices.iter().filter(|(_, held)| held.as_ref() == Some(&place));
        let pids = self.users.iter().filter(|(_, instance)| *instance == Some(found.id));
        (slices.map(|(name, _)| name.as_str()).collect(), pids.map(|(pid, _)| *pid).collect())
    }

    /// Somebody uses an instance, or it is promised to a slice.
    pub fn is_busy(&self, found: &MigFound) -> bool {
        let (slices, pids) = self.users_of(found);
        !slices.is_empty() || !pids.is_empty()
    }

    fn step(&self, action: MigAction, place: Option<MigPlace>) -> MigStep {
        let (profile, start) = place.map_or((None, None), |place| (Some(place.profile), place.start));
        MigStep { gpu: self.info.index, action, profile, start }
    }

    /// What is there, as a layout.
    pub fn layout(&self) -> MigLayout {
        let instances = self.now.instances.iter().map(|found| self.place_of(found)).collect();
        MigLayout { enabled: self.now.enabled, instances }
    }

    /// What has to be done so that it is as `layout` says, and the layout with every place decided.
    pub fn change(&self, layout: &MigLayout) -> Result<(Vec<MigStep>, MigLayout), ErrorBody> {
        if !layout.enabled && !layout.instances.is_empty() {
            let message = format!("GPU {}: instances are wanted with MIG mode off", self.info.index);
            return Err(ErrorBody::new(ErrorCode::Invalid, message, "turn it on, or name no instances"));
        }
        let mut steps = Vec::new();
        if layout.enabled != self.now.enabled {
            self.check_idle()?;
        }
        if layout.enabled && !self.now.enabled {
            steps.push(self.step(MigAction::Enable, None));
        }
        let geometry = geometry(&self.now.profiles);
        let wanted =
            (layout.instances.iter()).map(|place| self.wanted(&geometry, place)).collect::<Result<Vec<_>, _>>()?;
        // One without a compute instance is of use to nobody.
        let (whole, empty): (Vec<&MigFound>, Vec<&MigFound>) =
            self.now.instances.iter().partition(|found| found.uuid.is_some());
        let destroy = |found: &MigFound| self.step(MigAction::Destroy, Some(self.place_of(found)));
        steps.extend(empty.into_iter().map(destroy));
        let mut present = Vec::new();
        for found in whole {
            match geometry.named(&self.place_of(found).profile) {
                Some(profile) => {
                    let instance = Instance { profile, start: u8::try_from(found.start).unwrap_or(u8::MAX) };
                    present.push(Present { instance, busy: self.is_busy(found) });
                }
                None => steps.push(destroy(found)),
            }
        }
        let change =
            geometry.change(&present, &wanted).map_err(|obstacle| self.explain(&geometry, &obstacle, &wanted))?;
        let place = |one: &Instance| MigPlace {
            profile: geometry.profiles.get(one.profile).map_or_else(String::new, |kind| kind.name.clone()),
            start: Some(u32::from(one.start)),
        };
        steps.extend(change.steps.iter().map(|step| match step {
            Step::Destroy(one) => self.step(MigAction::Destroy, Some(place(one))),
            Step::Create(one) => self.step(MigAction::Create, Some(place(one))),
        }));
        if !layout.enabled && self.now.enabled {
            steps.push(self.step(MigAction::Disable, None));
        }
        Ok((steps, MigLayout { enabled: layout.enabled, instances: change.layout.iter().map(place).collect() }))
    }

    /// The mode can be changed only while nothing uses the GPU.
    fn check_idle(&self) -> Result<(), ErrorBody> {
        let pids: Vec<u32> = self.users.iter().map(|(pid, _)| *pid).collect();
        let slices: Vec<&str> = self.slices.iter().map(|(name, _)| name.as_str()).collect();
        if pids.is_empty() && slices.is_empty() {
            return Ok(());
        }
        Err(ErrorBody::new(
            ErrorCode::Conflict,
            format!(
                "GPU {}: its MIG mode can be changed only while it is idle, and it has {}",
                self.info.index,
                list_users(&slices, &pids)
            ),
            "end the processes and delete the slices first",
        ))
    }

    fn wanted(&self, geometry: &Geometry, place: &MigPlace) -> Result<Wanted, ErrorBody> {
        let index = self.info.index;
        let Some(profile) = geometry.named(&place.profile) else {
            let known: Vec<&str> = geometry.profiles.iter().map(|kind| kind.name.as_str()).collect();
            let part = place.profile.split_once("c.").map_or("", |_| ", which have one compute instance each");
            return Err(ErrorBody::new(
                ErrorCode::Invalid,
                format!("GPU {index} ({}) has no profile \"{}\"", self.info.name, place.profile),
                format!("it has {}{part}", known.join(", ")),
            ));
        };
        let starts = geometry.profiles.get(profile).map(|kind| kind.starts.as_slice()).unwrap_or_default();
        let start = match place.start {
            None => None,
            Some(start) => match starts.iter().find(|one| u32::from(**one) == start) {
                Some(start) => Some(*start),
                None => {
                    return Err(ErrorBody::new(
                        ErrorCode::Invalid,
                        format!("GPU {index}: {} can't start at memory slice {start}", place.profile),
                        format!("it can at {}", numbers(starts)),
                    ));
                }
            },
        };
        Ok(Wanted { profile, start })
    }

    /// Why it can't be as wanted: who is in the way, or what is tightest and what is nearest.
    fn explain(&self, geometry: &Geometry, obstacle: &Obstacle, wanted: &[Wanted]) -> ErrorBody {
        let index = self.info.index;
        let found = |one: &Instance| {
            let here = self.now.instances.iter().find(|found| {
                found.start == u32::from(one.start)
                    && geometry.named(&self.place_of(found).profile) == Some(one.profile)
            });
            let (slices, pids) = here.map(|found| self.users_of(found)).unwrap_or_default();
            let name = geometry.profiles.get(one.profile).map_or("", |kind| kind.name.as_str());
            format!("{name} at {} is used by {}", one.start, list_users(&slices, &pids))
        };
        let all = |instances: &[Instance]| instances.iter().map(found).collect::<Vec<_>>().join("; ");
        match obstacle {
            Obstacle::Busy(instances) => ErrorBody::new(
                ErrorCode::Conflict,
                format!("GPU {index}: {}, and the layout has no place for it; nothing was changed", all(instances)),
                "end them first, or name a layout that keeps it",
            ),
            Obstacle::InTheWay(instances) => ErrorBody::new(
                ErrorCode::Conflict,
                format!(
                    "GPU {index}: the rest does not fit beside what is busy: {}; nothing was changed",
                    all(instances)
                ),
                "end them first, so that the instances can be moved",
            ),
            Obstacle::NoRoom => {
                let wanted: Vec<usize> = wanted.iter().map(|one| one.profile).collect();
                refused(
                    format!("GPU {index} ({}): {}; nothing was changed", self.info.name, geometry.tightest(&wanted)),
                    format!("nearest: {}", geometry.list(&geometry.offer(0, &wanted))),
                )
            }
        }
    }
}

fn numbers(starts: &[u8]) -> String {
    starts.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

fn back(step: &MigStep) -> MigStep {
    let action = match step.action {
        MigAction::Enable => MigAction::Disable,
        MigAction::Disable => MigAction::Enable,
        MigAction::Create => MigAction::Destroy,
        MigAction::Destroy => MigAction::Create,
    };
    MigStep { action, ..step.clone() }
}

fn act(nvml: &dyn Nvml, gpu: usize, step: &MigStep) -> Result<(), NvmlError> {
    let gone = |what: &str| NvmlError::Call(format!("{what} is gone"));
    let on = match step.action {
        MigAction::Enable | MigAction::Disable => return nvml.set_mig_mode(gpu, step.action == MigAction::Enable),
        MigAction::Create => true,
        MigAction::Destroy => false,
    };
    let now = nvml.mig(gpu)?.ok_or_else(|| gone("MIG"))?;
    let name = step.profile.as_deref().unwrap_or_default();
    let profile = now.profiles.iter().find(|profile| profile.name == name).ok_or_else(|| gone("the profile"))?;
    if on {
        return nvml.create_instance(gpu, profile, step.start.unwrap_or_default());
    }
    let is = |found: &&MigFound| found.profile == profile.id && Some(found.start) == step.start;
    nvml.destroy_instance(gpu, now.instances.iter().find(is).ok_or_else(|| gone("the instance"))?.id)
}

/// Does all of these, each on the GPU at its place, or none: what was done before one that fails is undone.
pub fn carry_out(nvml: &dyn Nvml, steps: &[(usize, MigStep)]) -> Result<(), ErrorBody> {
    for (count, (gpu, step)) in steps.iter().enumerate() {
        let Err(error) = act(nvml, *gpu, step) else { continue };
        let done = steps.iter().take(count).rev();
        let undo =
            |(gpu, step): &(usize, MigStep)| act(nvml, *gpu, &back(step)).err().map(|e| format!("{}: {e}", back(step)));
        let failed: Vec<String> = done.filter_map(undo).collect();
        let left = match failed.as_slice() {
            [] => "everything is as it was".into(),
            _ => format!("and not all could be put back: {}", failed.join("; ")),
        };
        let hint = "`cleave mig list` shows what is there; changes of MIG need root";
        return Err(ErrorBody::new(ErrorCode::Unavailable, format!("{step}: {error}; {left}"), hint));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::MemoryState;
    use cleave_api::MigProfile;
    use std::sync::Mutex;

    /// GPUs with MIG, of which one call fails.
    struct Fails {
        gpus: Vec<MigNow>,
        state: Mutex<(Vec<MigNow>, usize)>,
        at: usize,
    }

    impl Fails {
        fn new(gpus: Vec<MigNow>, at: usize) -> Self {
            Self { state: Mutex::new((gpus.clone(), 0)), gpus, at }
        }

        fn change(&self, gpu: usize, change: impl FnOnce(&mut MigNow)) -> Result<(), NvmlError> {
            let mut state = self.state.lock().unwrap();
            state.1 += 1;
            if state.1 == self.at {
                return Err(NvmlError::Call("no".into()));
            }
            change(&mut state.0[gpu]);
            state.0[gpu].instances.sort_by_key(|one| one.start);
            Ok(())
        }
    }

    impl Nvml for Fails {
        fn driver_version(&self) -> String {
            String::new()
        }
        fn cuda_version(&self) -> u32 {
            0
        }
        fn gpus(&self) -> &[GpuInfo] {
            &[]
        }
        fn memory(&self, _: usize) -> Result<MemoryState, NvmlError> {
            Ok(MemoryState::default())
        }
        fn processes(&self, _: usize) -> Result<Vec<(u32, Option<u64>)>, NvmlError> {
            Ok(Vec::new())
        }
        fn busy(&self, _: usize, _: u64) -> Option<Vec<(u32, u64, u32)>> {
            None
        }
        fn utilization(&self, _: usize) -> Option<u32> {
            None
        }
        fn mig(&self, gpu: usize) -> Result<Option<MigNow>, NvmlError> {
            Ok(Some(self.state.lock().unwrap().0[gpu].clone()))
        }
        fn set_mig_mode(&self, gpu: usize, on: bool) -> Result<(), NvmlError> {
            self.change(gpu, |now| now.enabled = on)
        }
        fn create_instance(&self, gpu: usize, profile: &MigProfile, start: u32) -> Result<(), NvmlError> {
            let found = MigFound { id: start + 7, profile: profile.id, start, uuid: Some(format!("MIG-{start}")) };
            self.change(gpu, |now| now.instances.push(found))
        }
        fn destroy_instance(&self, gpu: usize, id: u32) -> Result<(), NvmlError> {
            self.change(gpu, |now| now.instances.retain(|one| one.id != id))
        }
    }

    fn profile(name: &str, id: u32, starts: &[u32], size: u32) -> MigProfile {
        MigProfile {
            name: name.into(),
            id,
            starts: starts.into(),
            size,
            memory_mib: size.into(),
            ..MigProfile::default()
        }
    }

    fn divided(instances: &[(u32, u32)]) -> MigNow {
        let found = |&(profile, start): &(u32, u32)| MigFound {
            id: start + 7,
            profile,
            start,
            uuid: Some(format!("MIG-{start}")),
        };
        MigNow {
            enabled: !instances.is_empty(),
            profiles: vec![profile("1g", 19, &[0, 1, 2, 3, 4, 5, 6], 1), profile("3g", 9, &[0, 4], 4)],
            instances: instances.iter().map(found).collect(),
            ..MigNow::default()
        }
    }

    fn layout(places: &[&str]) -> MigLayout {
        let place = |name: &&str| MigPlace { profile: (*name).into(), start: None };
        MigLayout { enabled: true, instances: places.iter().map(place).collect() }
    }

    fn card<'a>(info: &'a GpuInfo, now: &MigNow) -> Card<'a> {
        Card { info, now: now.clone(), users: Vec::new(), slices: Vec::new() }
    }

    #[test]
    fn a_failure_at_any_step_puts_back_what_was() {
        let info = GpuInfo::default();
        let before = [divided(&[(19, 4), (9, 0)]), divided(&[])];
        let steps: Vec<(usize, MigStep)> = [layout(&["1g", "1g", "3g"]), layout(&["3g", "3g"])]
            .iter()
            .enumerate()
            .flat_map(|(at, wish)| {
                card(&info, &before[at]).change(wish).unwrap().0.into_iter().map(move |step| (at, step))
            })
            .collect();
        assert!(steps.len() >= 4, "{steps:?}");
        for at in 1..=steps.len() {
            let nvml = Fails::new(before.to_vec(), at);
            let error = carry_out(&nvml, &steps).unwrap_err();
            assert!(error.message.contains("everything is as it was"), "{error}");
            let sorted = |all: &[MigNow]| {
                let mut all = all.to_vec();
                all.iter_mut().for_each(|now| now.instances.sort_by_key(|one| one.start));
                all
            };
            assert_eq!(sorted(&nvml.state.lock().unwrap().0), sorted(&nvml.gpus), "step {at}");
        }
        let nvml = Fails::new(before.to_vec(), 0);
        carry_out(&nvml, &steps).unwrap();
        for (at, wish) in [layout(&["1g", "1g", "3g"]), layout(&["3g", "3g"])].iter().enumerate() {
            assert_eq!(card(&info, &nvml.state.lock().unwrap().0[at]).change(wish).unwrap().0, []);
        }
    }

    #[test]
    fn who_is_in_the_way_is_named_and_a_mode_waits_for_an_idle_gpu() {
        let info = GpuInfo::default();
        let mut one = card(&info, &divided(&[(9, 0), (19, 4)]));
        one.slices.push(("train".into(), Some(MigPlace { profile: "3g".into(), start: Some(0) })));
        one.users.push((1, Some(11)));
        let said = |card: &Card<'_>, wish: &MigLayout| card.change(wish).unwrap_err().message;
        let busy = said(&one, &layout(&["1g"]));
        assert!(busy.contains("3g at 0 is used by slice train"), "{busy}");
        let crowded = said(&one, &layout(&["3g", "1g", "1g", "1g", "1g"]));
        assert!(crowded.contains("does not fit beside what is busy: 3g at 0 is used by slice train"), "{crowded}");
        let too_much = one.change(&layout(&["3g", "3g", "1g"])).unwrap_err();
        assert!(too_much.message.contains("take 9 memory slices, and a GPU has 8"), "{too_much}");
        assert_eq!(too_much.hint.as_deref(), Some("nearest: 2 x 3g"));
        let off = said(&one, &MigLayout::default());
        assert!(off.contains("only while it is idle") && off.contains("slice train, process 1"), "{off}");
        // Nothing that is kept is touched.
        let steps = one.change(&layout(&["3g", "1g", "1g"])).unwrap().0;
        assert_eq!(steps.iter().map(ToString::to_string).collect::<Vec<_>>(), ["GPU 0: create 1g at 5"]);
        let wrong = one.change(&layout(&["1c.3g"])).unwrap_err();
        assert!(wrong.message.contains("no profile \"1c.3g\"") && wrong.hint.unwrap().contains("1g, 3g"));
    }

    #[test]
    fn an_instance_without_a_compute_instance_is_made_anew() {
        let info = GpuInfo::default();
        let mut now = divided(&[(9, 4)]);
        now.instances[0].uuid = None;
        let steps = card(&info, &now).change(&layout(&["3g"])).unwrap().0;
        let words: Vec<String> = steps.iter().map(ToString::to_string).collect();
        assert_eq!(words, ["GPU 0: destroy 3g at 4", "GPU 0: create 3g at 4"]);
    }
}
