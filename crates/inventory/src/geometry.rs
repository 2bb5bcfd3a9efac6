//! What fits beside what on a GPU, from what its driver says of its MIG profiles.
use cleave_api::MigProfile;
use cleave_policy::mig::{Geometry, Profile};

/// The profiles' geometry, in their order.
pub fn geometry(profiles: &[MigProfile]) -> Geometry {
    let small = |number: &u32| u8::try_from(*number).unwrap_or(u8::MAX);
    let profile = |profile: &MigProfile| Profile {
        name: profile.name.clone(),
        starts: profile.starts.iter().map(small).collect(),
        size: small(&profile.size),
        media: profile.name.contains("+me"),
        sms: profile.multiprocessors,
        memory_mib: profile.memory_mib,
    };
    Geometry { profiles: profiles.iter().map(profile).collect() }
}
