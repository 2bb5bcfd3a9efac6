//! `cleave daemon` and what belongs to it.
use super::Context;
use crate::Daemon;
use crate::client::Result;
use crate::output::Format;
use cleave_api::{Engine, ErrorBody, ErrorCode};
use cleave_daemon::Config;
use std::path::PathBuf;
use tracing_subscriber::EnvFilter;

/// Runs the daemon until it is told to end.
pub(crate) fn run(context: &Context, options: Daemon) -> Result<i32> {
    if options.private {
        // In a session of its own, the keys of the terminal that started it don't reach it. It fails only where it
        // leads a process group, that is, where a person typed this.
        let _ = rustix::process::setsid();
    }
    let mut config = config(context, &options);
    if options.engine == Engine::Mig {
        return Err(ErrorBody::new(
            ErrorCode::Invalid,
            "engine mig is not available: it comes with MIG support",
            "choose auto, temporal or spatial",
        ));
    }
    config.engine = options.engine;
    config.mps_dir = options.mps_dir;
    config.driver_library_dir = options.driver_library_dir;
    config.tcp = options.listen.zip(options.token_file).map(|(listen, token_file)| cleave_daemon::Tcp {
        listen,
        token_file,
        tls_cert: options.tls_cert,
        tls_key: options.tls_key,
    });
    log(context.verbose, context.format);
    cleave_daemon::run(config).map_err(explain)?;
    Ok(0)
}

fn config(context: &Context, options: &Daemon) -> Config {
    let mut config = match options.private {
        true => Config::private(context.run_dir.clone(), context.sim.clone()),
        false => Config::new(context.sim.clone()),
    };
    // A daemon in another place is another daemon, whose slices are not those of the usual one.
    if config.run_dir != context.run_dir {
        config.state_dir = context.run_dir.join("state");
        config.run_dir.clone_from(&context.run_dir);
    }
    if let Some(dir) = &options.state_dir {
        config.state_dir.clone_from(dir);
    }
    (config.window_ms, config.oversubscribe) = (options.window, options.oversubscribe);
    config.ignore_classes.clone_from(&options.ignore_classes);
    config.own_multiprocessors = options.parts == "own";
    config.placement = options.placement;
    config
}

/// What it logs goes to stderr; `RUST_LOG` decides how much, else `-v`.
fn log(verbose: u8, format: Format) {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    if format == Format::Json {
        let _ = builder.json().try_init();
    } else {
        let _ = builder.with_ansi(anstream::stderr().current_choice() != anstream::ColorChoice::Never).try_init();
    }
}

/// The daemon's error: its own, where it says what to do.
fn explain(error: anyhow::Error) -> ErrorBody {
    match error.downcast::<ErrorBody>() {
        Ok(body) => body,
        Err(error) => {
            ErrorBody::new(ErrorCode::Unavailable, format!("{error:#}"), "`cleave doctor` checks what the daemon needs")
        }
    }
}

/// Ends the daemon.
pub(crate) fn shutdown(context: &Context) -> Result<i32> {
    context.any_client()?.tell("shutdown")?;
    Ok(0)
}

/// `cleave internal-probe-context`: what the daemon starts to measure a context.
pub(crate) fn probe_context(arguments: &[String]) -> Result<i32> {
    cleave_daemon::probe_context(arguments).map_err(explain)?;
    Ok(0)
}

/// `cleave internal-checkpoint`: what the daemon starts to suspend and wake a slice.
pub(crate) fn checkpoint(arguments: &[String]) -> Result<i32> {
    cleave_daemon::checkpoint(arguments).map_err(explain)?;
    Ok(0)
}

/// What the daemon writes, for `cleave doctor`.
pub(crate) fn files(context: &Context) -> Vec<(PathBuf, &'static str)> {
    let config = match context.sim {
        Some(_) => Config::private(context.run_dir.clone(), context.sim.clone()),
        None => Config::new(None),
    };
    let mut files = vec![
        (context.run_dir.clone(), "sockets, ledgers and the stand-in library; lost with a reboot"),
        (config.state_dir, "the daemon's database of slices and events; a private daemon has it in its run directory"),
    ];
    if let Some(dir) = config.cdi_dir {
        files.push((dir, "CDI specs of the slices, where the daemon is root's"));
    }
    files
}
