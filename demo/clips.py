"""The demo's clips: which second of which video, and what is seen in it. No two are nearer than 14 dB PSNR to each other."""

from footage import Window

CLIPS: dict[str, list[tuple[str, Window, str]]] = {
    "clips": [
        ("bbb-burrow", Window("bbb", 0, 1, 102, 546), "a grey rabbit crawls out of a dark burrow beside grey rocks"),
        ("bbb-push-up", Window("bbb", 3, 110, 360, 540), "a rabbit pushes himself up from the long grass"),
        (
            "bbb-pointing",
            Window("bbb", 17, 405, 100, 702),
            "a rabbit at the left edge points across the hill to a stone ruin",
        ),
        ("bbb-shade", Window("bbb", 17, 14, 126, 630), "a fat rabbit leans on a rock and straightens up in the shade"),
        (
            "bbb-stretch",
            Window("bbb", 17, 106, 50, 618),
            "a rabbit bends down low and then stretches one arm before the mossy bank",
        ),
        (
            "bbb-slope",
            Window("bbb", 18, 447, 288, 606),
            "a sunny grass slope with a stone wall, somebody stands up at the left edge",
        ),
        ("bbb-arms", Window("bbb", 19, 225, 10, 642), "under dark trees a rabbit ducks and spreads his arms wide"),
        (
            "bbb-flowers",
            Window("bbb", 21, 286, 158, 594),
            "yellow flowers, and a rabbit who stands up until his head is out of the frame",
        ),
        (
            "bbb-heavy",
            Window("bbb", 33, 125, 123, 582),
            "a heavy body rises next to the boulder until the ears are out of sight",
        ),
        (
            "bikes-wall",
            Window("bikes", 18, 54, 44, 222),
            "a pale wall passes, then a man in a dark coat before parked cars",
        ),
        (
            "bikes-dusk",
            Window("bikes", 40, 136, 12, 390),
            "out of focus traffic at dusk, then the white roof of a taxi",
        ),
        ("bikes-van", Window("bikes", 75, 65, 1, 390), "a taxi sign close up, then a van with red brake lights"),
        (
            "bikes-fence",
            Window("bikes", 174, 248, 8, 276),
            "cars behind a green fence, red brick houses far away, then a parked bicycle with grey bags",
        ),
        ("bikes-door", Window("bikes", 179, 0, 52, 240), "a railing by the road, then trousers stride past a doorway"),
        ("phone-face", Window("phone", 1, 78, 45, 96), "close face of a man who looks ahead in a moving car"),
        (
            "phone-surprise",
            Window("phone", 56, 30, 55, 120),
            "a surprised man with a bow tie opens his mouth, blue seat behind him",
        ),
    ],
    "clips_lora": [
        ("bbb-climb", Window("bbb", 11, 191, 224, 600), "a big animal climbs out of its hole onto the meadow"),
        (
            "bbb-belly",
            Window("bbb", 19, 79, 234, 588),
            "somebody gets up until only the belly is seen above the ground",
        ),
        ("bbb-ruin", Window("bbb", 23, 717, 156, 552), "a quiet ruin of stone below a pink morning sky"),
        ("bbb-yawn", Window("bbb", 47, 219, 2, 624), "a happy creature raises both fists and yawns"),
        ("bikes-suit", Window("bikes", 33, 210, 52, 270), "a dark suit passes in front of blurred lights"),
        (
            "bikes-wheel",
            Window("bikes", 177, 71, 33, 342),
            "iron bars and a wheel, then a pedestrian next to a green post",
        ),
        ("bikes-legs", Window("bikes", 189, 242, 50, 294), "legs hurry past a covered bicycle that leans on a wall"),
        ("phone-talk", Window("phone", 57, 49, 36, 120), "a passenger in a tuxedo talks and turns his head"),
    ],
    "heldout": [
        ("bbb-held-1", Window("bbb", 104, 220, 20, 660), "a rabbit stretches and lays one arm over his head"),
        (
            "bbb-held-2",
            Window("bbb", 106, 500, 180, 540),
            "a mossy bank with yellow flowers, the back of an animal at the left edge",
        ),
        (
            "bikes-held-1",
            Window("bikes", 222, 30, 20, 330),
            "a green post on the pavement, then the frame of a bicycle",
        ),
        (
            "bikes-held-2",
            Window("bikes", 223, 300, 60, 300),
            "the gears of a bicycle in front of a barred window, then a tree trunk",
        ),
        ("phone-held-1", Window("phone", 88, 20, 20, 138), "a man in a tuxedo sings in the back of a car"),
        ("phone-held-2", Window("phone", 89, 60, 40, 108), "a face close to the camera, forest behind the car window"),
    ],
}
