//! What the machine does while a run goes on: processors, memory and, where the driver's library is there, GPUs.

use nvml_wrapper::Nvml;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate};

const MIB: f64 = 1024.0 * 1024.0;

/// Reads the machine's counters.
pub(super) struct System {
    system: sysinfo::System,
    /// None without NVIDIA's management library, which is loaded at run time.
    nvml: Option<Nvml>,
}

impl System {
    /// Looks for GPUs; the use of the processors is measured from now on.
    pub(super) fn new() -> Self {
        // A driver without its development files has the versioned name only.
        let versioned = Nvml::builder().lib_path("libnvidia-ml.so.1".as_ref()).init();
        let nvml = versioned.or_else(|_| Nvml::init()).ok();
        let mut system = sysinfo::System::new();
        system.refresh_cpu_usage();
        Self { system, nvml }
    }

    /// The name of the first GPU, how many there are, and the newest CUDA that the driver runs.
    pub(super) fn gpus(&self) -> Option<(String, u32, String)> {
        let nvml = self.nvml.as_ref()?;
        let count = nvml.device_count().ok().filter(|&count| count > 0)?;
        let version = nvml.sys_cuda_driver_version().unwrap_or_default();
        Some((nvml.device_by_index(0).ok()?.name().ok()?, count, format!("{}.{}", version / 1000, version % 1000 / 10)))
    }

    /// Measured values under the names of Weights & Biases.
    pub(super) fn sample(&mut self) -> Vec<(String, f64)> {
        let Self { system, nvml } = self;
        system.refresh_cpu_usage();
        system.refresh_memory();
        let mut values = vec![("cpu".to_string(), f64::from(system.global_cpu_usage()))];
        if system.total_memory() > 0 {
            let percent = 100.0 * system.used_memory() as f64 / system.total_memory() as f64;
            values.push(("memory_percent".into(), percent));
            values.push(("proc.memory.availableMB".into(), system.available_memory() as f64 / MIB));
        }
        let pid = Pid::from_u32(std::process::id());
        system.refresh_processes_specifics(
            ProcessesToUpdate::Some(&[pid]),
            true,
            ProcessRefreshKind::nothing().with_memory(),
        );
        if let Some(process) = system.process(pid) {
            values.push(("proc.memory.rssMB".into(), process.memory() as f64 / MIB));
        }
        if let Some(nvml) = nvml {
            values.extend(gpu_values(nvml));
        }
        values
    }
}

/// Every GPU's counters; one that it does not have is left out.
fn gpu_values(nvml: &Nvml) -> Vec<(String, f64)> {
    let mut values = Vec::new();
    for n in 0..nvml.device_count().unwrap_or_default() {
        let Ok(device) = nvml.device_by_index(n) else { continue };
        let mut set = |key: &str, value: f64| values.push((format!("gpu.{n}.{key}"), value));
        if let Ok(use_of) = device.utilization_rates() {
            set("gpu", f64::from(use_of.gpu));
            set("memory", f64::from(use_of.memory));
        }
        if let Ok(memory) = device.memory_info() {
            set("memoryAllocated", 100.0 * memory.used as f64 / memory.total.max(1) as f64);
            set("memoryAllocatedBytes", memory.used as f64);
        }
        if let Ok(celsius) = device.temperature(TemperatureSensor::Gpu) {
            set("temp", f64::from(celsius));
        }
        if let Ok(milliwatts) = device.power_usage() {
            set("powerWatts", f64::from(milliwatts) / 1000.0);
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_measured() {
        let mut system = System::new();
        let values: std::collections::BTreeMap<_, _> = system.sample().into_iter().collect();
        assert!(values["proc.memory.rssMB"] > 1.0, "{values:?}");
        assert!((0.0..=100.0).contains(&values["memory_percent"]));
        assert!(values["cpu"] >= 0.0);
        assert_eq!(values.contains_key("gpu.0.memoryAllocatedBytes"), system.gpus().is_some());
    }
}
