//! `View<T>` arguments: what the handler sees, wherever its caller is.

mod common;
#[path = "common/run_dir.rs"]
mod run_dir;

use common::within;
use epicserver::Config;
use epicserver::config::Transport;
use epicserver::prelude::*;
use run_dir::RunDir;

#[message]
#[derive(Debug, Clone, PartialEq)]
struct Picture {
    width: u32,
    name: String,
    pixels: Vec<u8>,
}

#[entity(key = u64)]
#[derive(Default)]
struct Gallery {
    names: Vec<String>,
}

#[entity]
impl Gallery {
    /// Reads the picture where it lies.
    pub fn sum(&self, picture: View<Picture>) -> (u64, bool) {
        let sum: u64 = picture.pixels.iter().map(|pixel| u64::from(*pixel)).sum();
        (sum + u64::from(picture.width.to_native()), picture.is_in_frame())
    }

    /// Keeps the value.
    pub fn hang(&mut self, picture: View<Picture>) -> Option<Picture> {
        self.names.push(picture.name.as_str().to_owned());
        picture.into_value().ok()
    }

    /// Gives it to another one, after something else has run.
    pub async fn pass_on(
        cx: Cx<Self>,
        to: Ref<Self>,
        picture: View<Picture>,
    ) -> Result<(u64, bool)> {
        cx.sleep(std::time::Duration::from_millis(1)).await?;
        to.sum(picture).await
    }
}

fn picture(len: usize) -> Picture {
    Picture { width: 3, name: "Nighthawks".to_owned(), pixels: vec![2; len] }
}

async fn visit(pool: Pool) -> Result<Vec<bool>> {
    let mut in_frame = Vec::new();
    for key in 0..16 {
        let gallery = pool.get::<Gallery>(key);
        for len in [0, 5_000, 200_000] {
            let expected = 2 * len as u64 + 3;
            let (sum, framed) = gallery.sum(picture(len).into()).await?;
            assert_eq!(sum, expected);
            in_frame.push(framed);
            assert_eq!(gallery.hang(View::new(picture(len))).await?, Some(picture(len)));
            let (sum, _) = gallery.pass_on(pool.get(key + 1), picture(len).into()).await?;
            assert_eq!(sum, expected);
        }
    }
    Ok(in_frame)
}

#[test]
fn on_one_node_a_view_holds_the_value_of_the_caller() {
    common::on_nodes(
        &[1, 2],
        |builder| builder.entity::<Gallery>(),
        async |pool| {
            assert!(visit(pool).await.unwrap().iter().all(|framed| !framed));
        },
    );
}

#[test]
fn from_another_node_a_view_reads_what_came() {
    within(|| {
        let dir = RunDir::new();
        let mut config = Config::default();
        config.fabric.nodes = 2;
        config.network.transport = Transport::Tcp;
        config.node.shards = std::num::NonZeroUsize::new(1);
        config.runtime.run_dir = Some(dir.path().to_owned());
        let start = || {
            let builder = Node::builder().entity::<Gallery>().config(&config).pin(false);
            std::thread::spawn(move || builder.start().unwrap_or_else(|error| panic!("{error}")))
        };
        let (first, second) = (start(), start());
        let (first, second) = (first.join().unwrap(), second.join().unwrap());
        let framed = first.run(visit).unwrap().unwrap();
        assert!(framed.iter().any(|framed| *framed), "some galleries are on the other node");
        assert!(framed.iter().any(|framed| !*framed), "and some are here");
        assert!(first.stop() && second.stop());
    });
}
