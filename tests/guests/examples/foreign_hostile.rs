//! A foreign component whose functions use as much of every resource as they can get.

wit_bindgen::generate!({
    inline: "
        package elsewhere:hostile;
        world hostile {
            export spin: func();
            export crash: func();
            export eat: func() -> u64;
            export sleep: func();
            export text: func(bytes: u32) -> string;
            export controls: func(count: u32) -> string;
            export numbers: func(count: u32) -> list<u64>;
            export letter: func(text: string) -> u32;
        }
    ",
});

struct Hostile;

impl Guest for Hostile {
    fn spin() {
        loop {
            std::hint::spin_loop();
        }
    }

    fn crash() {
        panic!("it was asked to")
    }

    fn eat() -> u64 {
        let mut eaten = Vec::new();
        loop {
            eaten.push(vec![1_u8; 1 << 20]);
            if eaten.len() > 1 << 12 {
                return eaten.len() as u64;
            }
        }
    }

    fn sleep() {
        std::thread::sleep(std::time::Duration::from_secs(3600));
    }

    fn text(bytes: u32) -> String {
        "x".repeat(bytes as usize)
    }

    fn controls(count: u32) -> String {
        "\u{1}".repeat(count as usize)
    }

    fn numbers(count: u32) -> Vec<u64> {
        vec![u64::MAX; count as usize]
    }

    fn letter(text: String) -> u32 {
        text.len() as u32
    }
}

export!(Hostile);
