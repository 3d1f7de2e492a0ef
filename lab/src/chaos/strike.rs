//! Breaks things, and mends them again.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use shared::failure::Failure;

use super::clock::SteppedClock;
use super::disk::Disk;
use super::fault::{Fault, Layer};
use super::poison;
use super::servers::{Server, Servers};
use super::system::{EVERY_TIMEOUT, InstanceId, Service, System};
use super::verdict::Planted;
use crate::places::Places;

/// How long a server is down between its end and its start.
const SERVER_DOWN: Duration = Duration::from_millis(1_500);
/// By how much each piece to and from a slow broker is late, and for how long it is slow.
const SLOWNESS: Duration = Duration::from_millis(60);
const SLOW_FOR: Duration = Duration::from_secs(5);
const DISK_FULL_FOR: Duration = Duration::from_secs(4);
const CLOCK_WRONG_FOR: Duration = Duration::from_secs(4);
/// Between two steps of a scaling.
const SCALED_FOR: Duration = Duration::from_secs(3);
/// Longest wait for an instance that was asked to stop; then it is killed.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Beyond every time-out.
fn long() -> Duration {
    EVERY_TIMEOUT + Duration::from_secs(1)
}

/// What can be struck.
pub struct Targets<'a> {
    pub system: &'a System,
    pub servers: &'a Servers,
    pub places: &'a Places,
    pub users_topic: &'a str,
    pub disk: Option<Disk>,
    pub planted: RefCell<Vec<Planted>>,
    /// Records that were written by hand so far, whether or not the broker said that it has them.
    pub poisons: Cell<u64>,
}

impl Targets<'_> {
    /// Breaks it and returns when it is mended: what was stopped is started, what was frozen goes on.
    pub async fn strike(&self, fault: &Fault) -> Result<(), Failure> {
        let supervisor = &self.system.supervisor;
        match fault {
            Fault::Kill(id) => supervisor.kill(&id.name()),
            Fault::KillAll => supervisor.wanted().iter().try_for_each(|name| supervisor.kill(name)),
            Fault::Terminate(id) => supervisor.restart(&id.name()),
            Fault::Freeze(id) => {
                supervisor.freeze(&id.name())?;
                tokio::time::sleep(long()).await;
                supervisor.thaw(&id.name())
            }
            Fault::Scale(service) => self.scale(*service).await,
            Fault::Cut(id) => self.system.cut(*id),
            Fault::BlackHole(id) => {
                self.system.black_hole(*id)?;
                tokio::time::sleep(long()).await;
                self.system.heal(*id)
            }
            Fault::KillServer(server) => {
                self.servers.kill(*server).await?;
                self.start_again(*server).await
            }
            Fault::RestartServer(server) => {
                self.servers.stop(*server).await?;
                self.start_again(*server).await
            }
            Fault::FreezeServer(server) => {
                self.servers.freeze(*server).await?;
                tokio::time::sleep(long()).await;
                self.servers.thaw(*server).await
            }
            Fault::SlowBroker => {
                self.system.slow_down_broker(SLOWNESS);
                tokio::time::sleep(SLOW_FOR).await;
                self.system.slow_down_broker(Duration::ZERO);
                Ok(())
            }
            Fault::DiskFull => self.fill_disk().await,
            Fault::Poison(layer) => self.poison(*layer).await,
            Fault::Clock(seconds) => {
                let stepped = SteppedClock::step(*seconds)?;
                tokio::time::sleep(CLOCK_WRONG_FOR).await;
                drop(stepped);
                Ok(())
            }
        }
    }

    async fn start_again(&self, server: Server) -> Result<(), Failure> {
        tokio::time::sleep(SERVER_DOWN).await;
        self.servers.start(server).await
    }

    /// From two to one, to three, to one, to two.
    async fn scale(&self, service: Service) -> Result<(), Failure> {
        let supervisor = &self.system.supervisor;
        let name = |number| InstanceId { service, number }.name();
        let pause = || tokio::time::sleep(SCALED_FOR);
        supervisor.stop(&name(2))?;
        supervisor.await_down(&name(2), STOP_PATIENCE).await?;
        pause().await;
        supervisor.start(&name(2))?;
        supervisor.start(&name(3))?;
        pause().await;
        supervisor.stop(&name(2))?;
        supervisor.stop(&name(3))?;
        supervisor.await_down(&name(2), STOP_PATIENCE).await?;
        supervisor.await_down(&name(3), STOP_PATIENCE).await?;
        pause().await;
        supervisor.start(&name(2))
    }

    /// All services are asked to stop, and come back together after a while.
    pub async fn all_down_for(&self, time: Duration) -> Result<(), Failure> {
        let supervisor = &self.system.supervisor;
        let running = supervisor.wanted();
        running.iter().try_for_each(|name| supervisor.stop(name))?;
        for name in &running {
            supervisor.await_down(name, STOP_PATIENCE).await?;
        }
        tokio::time::sleep(time).await;
        running.iter().try_for_each(|name| supervisor.start(name))
    }

    async fn fill_disk(&self) -> Result<(), Failure> {
        let Some(disk) = self.disk.clone() else { return Ok(()) };
        let filling = disk.clone();
        let filled = tokio::task::spawn_blocking(move || filling.fill()).await;
        tokio::time::sleep(DISK_FULL_FOR).await;
        disk.free();
        // A server that could not write its files may have ended.
        self.servers.start(Server::Sink).await?;
        filled.unwrap_or(Ok(()))
    }

    async fn poison(&self, layer: Layer) -> Result<(), Failure> {
        let number = self.poisons.get() + 1;
        self.poisons.set(number);
        let names = &self.places.names;
        let topic = match layer {
            Layer::OdsOrders => names.ods_topic.as_str(),
            Layer::OdsUsers => self.users_topic,
            Layer::DwdOrders => &names.dwd_topic,
            Layer::Result => &names.result_topic,
        };
        let (kafka, topic) = (self.places.kafka.clone(), topic.to_owned());
        let planted = tokio::task::spawn_blocking(move || poison::plant(&kafka, &topic, number)).await;
        if let Ok(Ok(Some(planted))) = planted {
            self.planted.borrow_mut().push(planted);
        }
        Ok(())
    }
}
