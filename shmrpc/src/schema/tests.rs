use super::*;

struct Node {
    _value: u32,
}

impl Schema for Node {
    const RECURSIVE: bool = true;

    fn describe(to: &mut Describe) {
        to.structure::<Self>("Node", |to| {
            to.field::<u32>("value");
            to.field::<Option<Box<Node>>>("child");
        });
    }
}

struct Shape {
    _kind: u8,
}

impl Schema for Shape {
    fn describe(to: &mut Describe) {
        to.enumeration::<Self>("Shape", |to| {
            to.variant("Dot", |_| {});
            to.variant("Round", |to| to.field::<f32>("radius"));
            to.variant("Path", |to| {
                to.element::<Node>();
                to.element::<(u8,)>();
            });
        });
    }
}

#[test]
fn types_of_the_standard_library() {
    assert_eq!(Describe::text_of::<Vec<Option<(u8, ())>>>(), "Vec<Option<(u8,())>>");
    assert_eq!(Describe::text_of::<HashMap<String, [bool; 4]>>(), "HashMap<String,[bool;4]>");
    assert_eq!(Describe::text_of::<Result<Box<[u8]>, Box<str>>>(), "Result<Box<[u8]>,Box<str>>");
    assert_eq!(Describe::text_of::<(Range<u64>, NonZeroU8)>(), "(Range<u64>,NonZeroU8)");
}

#[test]
fn a_type_is_defined_once() {
    assert_eq!(Describe::text_of::<Node>(), "struct Node{value:u32,child:Option<Box<Node#1>>}");
    assert_eq!(
        Describe::text_of::<(Shape, Shape, Node)>(),
        "(enum Shape{Dot,Round{radius:f32},Path(struct Node{value:u32,child:Option<Box<Node#2>>},(u8))},Shape#1,Node#2)"
    );
}

#[test]
fn types_of_one_name_stay_apart() {
    mod other {
        pub(super) struct Node {
            _value: bool,
        }
    }
    impl Schema for other::Node {
        fn describe(to: &mut Describe) {
            to.structure::<Self>("Node", |to| to.element::<bool>());
        }
    }
    assert_eq!(
        Describe::text_of::<(Node, other::Node, other::Node, Node)>(),
        "(struct Node{value:u32,child:Option<Box<Node#1>>},struct Node(bool),Node#2,Node#1)"
    );
}

#[test]
fn methods() {
    let put = MethodSchema::unary::<(String, Vec<u8>), u64>(1, "put");
    assert_eq!((put.text.as_str(), put.oneway, put.index), ("put(String,Vec<u8>)->u64", false, 1));
    // Both sides of a connection must come to the same number, whenever they were built.
    assert_eq!(put.hash, 0xea01_5f1f_8f76_f109);
    assert_eq!(MethodSchema::unary::<(), Result<(), String>>(0, "f").text, "f()->Result<(),String>");
    assert_eq!(MethodSchema::oneway::<(u8,)>(0, "touch").text, "oneway touch(u8)");
}

#[test]
fn recursion_is_seen_through_containers() {
    const { assert!(<Result<u8, Option<Box<(u8, Node)>>> as Schema>::RECURSIVE) };
    const { assert!(!<HashMap<u8, Option<Box<(u8, String)>>> as Schema>::RECURSIVE) };
}

#[test]
fn fnv() {
    assert_eq!(hash(""), 0xcbf2_9ce4_8422_2325);
    assert_eq!(hash("foobar"), 0x8594_4171_f739_67e8);
}
