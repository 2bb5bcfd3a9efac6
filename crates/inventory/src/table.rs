//! The device table: what is known of models without asking them. `data/devices.toml` says what its fields are.
use cleave_api::Vendor;
use cleave_policy::mig::{Geometry as Shape, Profile as ShapeProfile};
use serde::Deserialize;
use std::sync::LazyLock;

/// What kind of figure a row's TFLOPS are.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Matrix units, without sparsity.
    Dense,
    /// There are no matrix units.
    Vector,
    /// Derived from another rate.
    Estimate,
}

/// How sure a row is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Confidence {
    /// On the hardware.
    Measured,
    /// Read in the source.
    Retrieved,
    /// From a datasheet, and not checked again.
    Datasheet,
}

/// A model. Values are of one GPU, of which a card has `dies`; TFLOPS and watts are of the whole card.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Its name in the table.
    pub name: String,
    /// Other names of it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Who makes it.
    pub vendor: Vendor,
    /// Architecture.
    pub arch: Option<String>,
    /// CUDA compute capability.
    pub cc: Option<String>,
    /// PCI vendor and device: `10de:2330`. Models may share one.
    #[serde(default)]
    pub pci: Vec<String>,
    /// GPUs on a card.
    #[serde(default = "one")]
    pub dies: u32,
    /// Memory in decimal GB.
    pub memory_gb: Option<f64>,
    /// Memory in MiB, where it was read from one.
    pub memory_mib: Option<u64>,
    /// Multiprocessors, compute units, Xe cores, TPCs or AI cores.
    pub units: Option<u32>,
    /// Memory bandwidth in GB/s.
    pub bandwidth_gb_s: Option<f64>,
    /// FP16 or BF16 TFLOPS.
    pub tflops: Option<f64>,
    /// BF16 TFLOPS, where they differ.
    pub bf16_tflops: Option<f64>,
    /// What kind of figure they are.
    pub basis: Option<Basis>,
    /// The accumulator, where the source says it.
    pub accumulate: Option<String>,
    /// FP32 TFLOPS, where there is no half precision to speak of.
    pub fp32_tflops: Option<f64>,
    /// INT8 TOPS, where the source has them.
    pub int8_tops: Option<f64>,
    /// The link to other GPUs.
    pub link: Option<String>,
    /// Its rate in GB/s, both directions, all links.
    pub link_gb_s: Option<f64>,
    /// Thermal design power in watts.
    pub tdp_watts: Option<u32>,
    /// Its [`Geometry`].
    pub mig: Option<String>,
    /// Where the row is from.
    pub source: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// What other sources say.
    pub conflict: Option<String>,
    /// When it was last checked: `2026-11-26`.
    pub verified_on: Option<String>,
}

fn one() -> u32 {
    1
}

/// The MIG geometry of a model.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Geometry {
    /// Its name in the table.
    pub name: String,
    /// The models that have it, by PCI vendor and device.
    pub pci: Vec<String>,
    /// Memory slices.
    pub slices: Option<u32>,
    /// Where it is from.
    pub source: String,
    /// How sure it is.
    pub confidence: Confidence,
    /// When it was last checked.
    pub verified_on: Option<String>,
    /// What to know about it.
    pub note: Option<String>,
    /// The kinds of instances.
    #[serde(rename = "profile")]
    pub profiles: Vec<Profile>,
}

/// A kind of MIG instance. What is not known is absent.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// `1g.10gb`.
    pub name: String,
    /// Its id on this model.
    pub id: Option<u32>,
    /// Most instances at once.
    pub max: Option<u32>,
    /// Multiprocessors of one.
    pub sms: Option<u32>,
    /// Copy engines.
    pub copy_engines: Option<u32>,
    /// Video decoders.
    pub decoders: Option<u32>,
    /// JPEG engines.
    pub jpegs: Option<u32>,
    /// Optical-flow engines.
    pub ofas: Option<u32>,
    /// Memory of one, in MiB.
    pub memory_mib: Option<u64>,
    /// Memory slices at which one may begin.
    pub starts: Option<Vec<u8>>,
    /// Memory slices that one takes.
    pub size: Option<u8>,
}

impl Geometry {
    /// For plans: what fits beside what. An error names what is not known of this model.
    pub fn shape(&self) -> Result<Shape, String> {
        let unknown =
            |profile: &Profile, what: &str| format!("{what} of {} on {} are not known", profile.name, self.name);
        let profile = |profile: &Profile| {
            Ok(ShapeProfile {
                name: profile.name.clone(),
                starts: profile.starts.clone().ok_or_else(|| unknown(profile, "placements"))?,
                size: profile.size.ok_or_else(|| unknown(profile, "slices"))?,
                media: profile.name.contains("+me"),
                sms: profile.sms.ok_or_else(|| unknown(profile, "multiprocessors"))?,
                memory_mib: profile.memory_mib.ok_or_else(|| unknown(profile, "memory"))?,
            })
        };
        Ok(Shape { profiles: self.profiles.iter().map(profile).collect::<Result<_, String>>()? })
    }
}

impl Geometry {
    /// The same without the profiles of which not everything is known, and what is not known of those.
    pub fn known_shape(&self) -> (Shape, Vec<String>) {
        let (mut shape, mut unknown) = (Shape { profiles: Vec::new() }, Vec::new());
        for profile in &self.profiles {
            match (Geometry { profiles: vec![profile.clone()], ..self.clone() }).shape() {
                Ok(one) => shape.profiles.extend(one.profiles),
                Err(why) => unknown.push(why),
            }
        }
        (shape, unknown)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Models {
    version: String,
    device: Vec<Model>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Geometries {
    geometry: Vec<Geometry>,
}

/// All models, and the geometries of those with MIG.
pub struct Table {
    /// When the table was made: `2026-11-26`.
    pub version: String,
    /// The models.
    pub models: Vec<Model>,
    /// The geometries.
    pub geometries: Vec<Geometry>,
}

impl Model {
    /// Memory of one GPU, in bytes: as it was read from one, else as the maker has it.
    pub fn memory_bytes(&self) -> Option<u64> {
        self.memory_mib.map(|mib| mib << 20).or(self.memory_gb.map(|gb| (gb * 1e9) as u64))
    }
}

impl Table {
    /// The table that is built in.
    pub fn get() -> &'static Self {
        static TABLE: LazyLock<Table> = LazyLock::new(|| {
            // A test reads both.
            let models: Models = toml::from_str(include_str!("../data/devices.toml"))
                .unwrap_or_else(|_| Models { version: String::new(), device: Vec::new() });
            let geometries: Geometries = toml::from_str(include_str!("../data/mig.toml"))
                .unwrap_or_else(|_| Geometries { geometry: Vec::new() });
            Table { version: models.version, models: models.device, geometries: geometries.geometry }
        });
        &TABLE
    }

    /// The model with this name or alias, in whatever case, with or without the maker's name before it.
    pub fn named(&self, name: &str) -> Option<&Model> {
        let wanted = plain(name);
        let is = |model: &&Model| std::iter::once(&model.name).chain(&model.aliases).any(|name| plain(name) == wanted);
        self.models.iter().find(is)
    }

    /// GPUs as they are written, `8xH100` or `H100`: how many, from 1 to `most`, and of which model.
    pub fn counted(&self, text: &str, most: u32) -> Result<(u32, &Model), String> {
        let text = text.trim();
        let (count, name) = match text.split_once(['x', 'X']) {
            Some((count, name)) if !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit()) => {
                (count, name)
            }
            _ => ("1", text),
        };
        let count = count.parse().ok().filter(|count| (1..=most).contains(count));
        let count = count.ok_or_else(|| format!("{text}: there must be 1 to {most}"))?;
        let model =
            self.named(name).ok_or_else(|| format!("there is no GPU \"{}\" in the device table", name.trim()))?;
        Ok((count, model))
    }

    /// The model of a device: by its PCI id, and where several share one by name and memory. `None` if that does not decide.
    pub fn model(&self, pci_id: Option<&str>, name: &str, memory_bytes: Option<u64>) -> Option<&Model> {
        let shared: Vec<&Model> =
            self.models.iter().filter(|model| pci_id.is_some_and(|id| model.pci.iter().any(|pci| pci == id))).collect();
        match shared.as_slice() {
            [] => self.named(name),
            [only] => Some(only),
            several => {
                let named = self.named(name).filter(|model| several.iter().any(|one| one.name == model.name));
                named.or_else(|| {
                    let bytes = memory_bytes? as f64;
                    let near = |model: &&&Model| {
                        // Drivers count in GiB less what is kept for error correction.
                        model.memory_gb.is_some_and(|gb| (0.85..1.1).contains(&(bytes / (gb * 1e9))))
                    };
                    let mut fit = several.iter().filter(near);
                    fit.next().filter(|_| fit.next().is_none()).copied()
                })
            }
        }
    }

    /// The MIG geometry with this name.
    pub fn geometry(&self, name: &str) -> Option<&Geometry> {
        self.geometries.iter().find(|geometry| geometry.name == name)
    }
}

fn plain(name: &str) -> String {
    let lower = name.to_lowercase();
    let makers = ["nvidia ", "amd ", "intel ", "intel(r) ", "huawei ", "qualcomm ", "habana "];
    let short = makers.iter().find_map(|maker| lower.strip_prefix(maker)).unwrap_or(&lower);
    short.chars().filter(|c| c.is_alphanumeric()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The models that there must be a row for, K80 to B300 and the other makers'.
    const MODELS: &str = "Tesla K80, Tesla M40 12GB, Tesla M40 24GB, Tesla M60, Tesla P4, Tesla P40, Tesla P100 PCIe, Tesla P100 SXM2, \
        Tesla V100 PCIe 16GB, Tesla V100 PCIe 32GB, Tesla V100 SXM2 16GB, Tesla V100 SXM2 32GB, T4, RTX 2080 Ti, Quadro RTX 8000, \
        A2, A10, A16, A30, A40, A100 40GB PCIe, A100 40GB SXM, A100 80GB PCIe, A100 80GB SXM, RTX 3090, RTX A6000, L4, L40, L40S, L20, \
        RTX 4090, RTX 6000 Ada, H100 PCIe, H100 SXM, H100 NVL, GH200 96GB, GH200 144GB, H20, H200 SXM, H200 NVL, B200, GB200, B300, \
        RTX 5090, RTX PRO 6000 Blackwell Server Edition, RTX PRO 6000 Blackwell Workstation Edition, \
        RTX PRO 6000 Blackwell Max-Q Workstation Edition, MI25, MI50, MI60, MI100, MI210, MI250, MI250X, MI300A, MI300X, MI325X, \
        MI350X, MI355X, Radeon PRO W7900, Radeon RX 7900 XTX, Max 1100, Max 1550, Flex 140, Flex 170, Arc A770, Arc B580, Arc Pro B50, \
        Arc Pro B60, Arc Pro B70, Gaudi, Gaudi 2, Gaudi 3, Ascend 310P, Ascend 910A, 910B2, 910B3, 910B4, 910C, AI 100 Std, AI 100 Pro, \
        AI 100 Ultra";

    #[test]
    fn both_files_read_and_every_row_is_there() {
        toml::from_str::<Models>(include_str!("../data/devices.toml")).unwrap_or_else(|e| panic!("{e}"));
        toml::from_str::<Geometries>(include_str!("../data/mig.toml")).unwrap_or_else(|e| panic!("{e}"));
        let table = Table::get();
        assert_eq!(table.version, "2026-11-26");
        for wanted in MODELS.split(", ") {
            assert!(table.named(wanted).is_some(), "{wanted}");
        }
    }

    #[test]
    fn names_are_unique_and_figures_say_what_they_are() {
        let table = Table::get();
        let mut names = BTreeSet::new();
        for model in &table.models {
            for name in std::iter::once(&model.name).chain(&model.aliases) {
                assert!(names.insert(plain(name)), "{name}");
            }
            assert_eq!(model.tflops.is_some(), model.basis.is_some(), "{}", model.name);
            assert_eq!(model.confidence == Confidence::Measured, model.verified_on.is_some(), "{}", model.name);
            assert!(model.mig.as_ref().is_none_or(|mig| table.geometry(mig).is_some()), "{}", model.name);
            assert!(!model.source.is_empty() && model.pci.iter().all(|id| id.len() == 9), "{}", model.name);
            // Unknown is absent.
            let figures = [model.memory_gb, model.bandwidth_gb_s, model.tflops, model.link_gb_s];
            assert!(figures.iter().flatten().all(|figure| *figure > 0.0), "{}", model.name);
            assert!(model.units != Some(0) && model.tdp_watts != Some(0) && model.dies > 0, "{}", model.name);
        }
        let geometries: BTreeSet<&str> = table.geometries.iter().map(|geometry| geometry.name.as_str()).collect();
        assert_eq!(geometries.len(), table.geometries.len());
    }

    /// A device and its geometry are found by the same PCI id.
    #[test]
    fn geometries_are_those_of_the_models_that_name_them() {
        for model in Table::get().models.iter().filter(|model| model.mig.is_some()) {
            let geometry = Table::get().geometry(model.mig.as_deref().unwrap()).unwrap();
            for id in &model.pci {
                assert!(geometry.pci.contains(id), "{} {id}", model.name);
            }
        }
    }

    /// Where placements are known, the layouts are as many as they must be (B7).
    #[test]
    fn geometries_have_as_many_layouts_as_there_are() {
        let mut sevens = 0;
        for geometry in &Table::get().geometries {
            let known = geometry.profiles.iter().all(|profile| profile.starts.is_some());
            if !known {
                assert!(geometry.shape().is_err(), "{}", geometry.name);
                continue;
            }
            // Layouts depend on placements alone.
            let mut placed = geometry.clone();
            for profile in &mut placed.profiles {
                profile.sms = profile.sms.or(Some(1));
                profile.memory_mib = profile.memory_mib.or(Some(1));
            }
            let shape = placed.shape().unwrap();
            let double = |name: &str| {
                geometry.slices == Some(8) && name.starts_with("1g") && {
                    let place = geometry.profiles.iter().find(|profile| profile.name == name);
                    place.is_some_and(|profile| profile.size == Some(2))
                }
            };
            let count = |with: &dyn Fn(&str) -> bool| {
                let layouts = shape.maximal(|profile| with(&profile.name));
                (layouts.len(), Shape::multisets(&layouts).len())
            };
            let base = count(&|name| !name.contains('+') && !double(name));
            let all = count(&|name| !name.contains('+'));
            match geometry.slices {
                Some(8) => {
                    assert_eq!((base, all), ((19, 14), (78, 38)), "{}", geometry.name);
                    sevens += 1;
                }
                slices => assert_eq!((slices, base), (Some(4), (5, 4)), "{}", geometry.name),
            }
        }
        assert_eq!(sevens, 13);
    }

    #[test]
    fn models_are_found_by_what_a_machine_says() {
        let model = |id: &str, name: &str, gib: u64| {
            Table::get().model((!id.is_empty()).then_some(id), name, Some(gib << 30)).map(|model| model.name.as_str())
        };
        assert_eq!(model("10de:2330", "NVIDIA H100 80GB HBM3", 79), Some("H100 SXM"));
        assert_eq!(model("", "NVIDIA H100 80GB HBM3", 79), Some("H100 SXM"));
        assert_eq!(model("10de:25b6", "NVIDIA A16", 15), Some("A16"));
        assert_eq!(model("10de:25b6", "?", 15), None);
        assert_eq!(model("10de:17fd", "Tesla M40", 11), Some("Tesla M40 12GB"));
        assert_eq!(model("10de:17fd", "Tesla M40", 22), Some("Tesla M40 24GB"));
        assert_eq!(model("1002:74a1", "", 191), Some("Instinct MI300X"));
        assert_eq!(model("19e5:d802", "", 32), Some("Ascend 910B4"));
        assert_eq!(model("17cb:a100", "", 0), None);
        assert_eq!(model("ffff:ffff", "no such card", 1), None);
    }

    #[test]
    fn gpus_are_counted_as_they_are_written() {
        let read = |text| Table::get().counted(text, 100).map(|(count, model)| (count, model.name.as_str()));
        for (text, expected) in [
            ("8xH100", Ok((8, "H100 SXM"))),
            (" 8XH100 ", Ok((8, "H100 SXM"))),
            ("RTX 4090", Ok((1, "GeForce RTX 4090"))),
            ("100xT4", Ok((100, "T4"))),
            ("0xT4", Err("1 to 100")),
            ("101xT4", Err("1 to 100")),
            ("99999999999xT4", Err("1 to 100")),
            ("xT4", Err("\"xT4\"")),
            ("2xH900", Err("\"H900\"")),
            ("", Err("no GPU")),
        ] {
            match expected {
                Ok(expected) => assert_eq!(read(text), Ok(expected), "{text}"),
                Err(word) => assert!(read(text).unwrap_err().contains(word), "{text}"),
            }
        }
    }

    /// What the simulated cards share with the table.
    #[test]
    fn the_simulated_cards_are_those_of_the_table() {
        for fake in fakegpu::models() {
            let id = format!("{:04x}:{:04x}", fake.pci_device_id & 0xffff, fake.pci_device_id >> 16);
            let model = Table::get().model(Some(&id), &fake.name, Some(fake.memory_mib << 20));
            let model = model.unwrap_or_else(|| panic!("{} {id}", fake.name));
            assert_eq!(model.units, Some(fake.sms), "{}", fake.name);
            let [major, minor] = fake.compute_capability;
            assert_eq!(model.cc.as_deref(), Some(format!("{major}.{minor}").as_str()), "{}", fake.name);
            let Some(geometry) = model.mig.as_deref().and_then(|mig| Table::get().geometry(mig)) else { continue };
            for profile in &fake.mig_profiles {
                let row = geometry.profiles.iter().find(|row| row.name == profile.name);
                let row = row.unwrap_or_else(|| panic!("{} {}", fake.name, profile.name));
                assert_eq!(row.max, Some(profile.instances), "{} {}", fake.name, profile.name);
                assert!(row.sms.is_none_or(|sms| sms == profile.sms), "{} {}", fake.name, profile.name);
                assert!(row.memory_mib.is_none_or(|mib| mib == profile.memory_mib), "{} {}", fake.name, profile.name);
                let starts: Vec<u32> = row.starts.iter().flatten().map(|start| u32::from(*start)).collect();
                assert_eq!(starts, profile.starts, "{} {}", fake.name, profile.name);
            }
        }
    }
}
