"""Which objects the emoji model knows, and what people call them."""

# Kept: animals, food, travel, activities, objects (emojibase groups 3 to 7) that a person can tell
# apart and name at 64 pixels, and these of the smileys (group 0). People, clock faces and
# near-doubles are left out.
GROUPS = (3, 4, 5, 6, 7)
SMILEYS = """\
grinning face; face with tears of joy; upside-down face; winking face; smiling face with halo;
smiling face with hearts; smiling face with heart-eyes; star-struck; face blowing a kiss; face
with tongue; money-mouth face; thinking face; zipper-mouth face; neutral face; sleeping face; face
with medical mask; face with thermometer; face with head-bandage; nauseated face; hot face; cold
face; exploding head; cowboy hat face; partying face; smiling face with sunglasses; nerd face;
face with monocle; flushed face; loudly crying face; face screaming in fear; enraged face; smiling
face with horns; skull; pile of poo; clown face; ogre; goblin; ghost; alien; alien monster; robot;
see-no-evil monkey; love letter; heart with arrow; heart with ribbon; broken heart; heart on fire;
red heart; pink heart; orange heart; yellow heart; green heart; blue heart; purple heart; brown
heart; black heart; white heart; kiss mark; hundred points; collision; speech balloon; dizzy"""
DROPPED = """\
guide dog; service dog; tiger face; horse face; cow face; pig face; ox; water buffalo; boar;
camel; rat; front-facing baby chick; wing; black bird; dove; mouse; rabbit; cricket; cockroach;
fly; white flower; rosette; blossom; empty nest; leaf fluttering in wind; fallen leaf; herb; sheaf
of rice; hyacinth; microbe; dragon; whale; melon; leafy green; beans; tamale; flatbread; stuffed
flatbread; falafel; shallow pan of food; bowl with spoon; cut of meat; rice cracker; cooked rice;
roasted sweet potato; oden; moon cake; shortcake; custard; clinking beer mugs; pouring liquid;
mate; fork and knife; teacup without handle; amphora; pot of food; globe showing Europe-Africa;
globe showing Asia-Australia; map of Japan; mountain; national park; desert; building
construction; derelict house; house with garden; houses; Japanese post office; post office; bank;
hotel; love hotel; convenience store; department store; foggy; cityscape at dusk; sunrise; night
with stars; sunrise over mountains; railway car; bullet train; train; light rail; station; tram;
monorail; tram car; mountain railway; oncoming bus; trolleybus; minibus; oncoming police car;
oncoming taxi; oncoming automobile; articulated lorry; motor boat; ferry; passenger ship; airplane
departure; airplane arrival; small airplane; suspension railway; aerial tramway; motorized
wheelchair; horizontal traffic light; motorway; hourglass not done; timer clock; twelve o'clock;
twelve-thirty; one o'clock; one-thirty; two o'clock; two-thirty; three o'clock; three-thirty; four
o'clock; four-thirty; five o'clock; five-thirty; six o'clock; six-thirty; seven o'clock;
seven-thirty; eight o'clock; eight-thirty; nine o'clock; nine-thirty; ten o'clock; ten-thirty;
eleven o'clock; eleven-thirty; new moon; waxing crescent moon; first quarter moon; waxing gibbous
moon; waning gibbous moon; last quarter moon; waning crescent moon; first quarter moon face; last
quarter moon face; sun behind small cloud; sun behind large cloud; sun behind rain cloud; fog;
milky way; umbrella with rain drops; snowman without snow; water wave; comet; shooting star; pine
decoration; tanabata tree; moon viewing ceremony; reminder ribbon; admission tickets; sports
medal; 2nd place medal; 3rd place medal; softball; rugby football; cricket game; field hockey;
lacrosse; flying disc; goal net; heart suit; flower playing cards; sparkler; running shirt;
martial arts uniform; knot; woman's clothes; clutch bag; purse; woman's sandal; flat shoe; hair
pick; prayer beads; sari; one-piece swimsuit; safety vest; speaker low volume; speaker medium
volume; loudspeaker; bell with slash; musical notes; musical score; level slider; control knobs;
mobile phone with arrow; telephone receiver; low battery; trackball; optical disk; film frames;
camera with flash; magnifying glass tilted right; open book; notebook with decorative cover;
ledger; notebook; page with curl; rolled-up newspaper; bookmark tabs; label; yen banknote; pound
banknote; receipt; chart increasing with yen; e-mail; incoming envelope; envelope with arrow;
outbox tray; inbox tray; closed mailbox with lowered flag; open mailbox with raised flag; open
mailbox with lowered flag; black nib; pen; memo; card index dividers; open file folder; spiral
notepad; spiral calendar; card index; card file box; chart decreasing; round pushpin; linked
paperclips; locked with pen; locked with key; unlocked; hammer and pick; hammer and wrench; white
cane; link; chains; petri dish; drop of blood; lotion bottle; crutch; funeral urn; hamsa; ring
buoy; bento box; diya lamp; long drum; postal horn; wheel; oil drum; bellhop bell; seat; rock;
wood; brick; flag in hole; tear-off calendar; umbrella on ground"""

# what people say instead; the first alias of an object stands in for its name in part of the
# captions
ALIASES = {
    "airplane": ["plane", "aeroplane"],
    "alarm clock": ["clock"],
    "alien monster": ["space invader"],
    "artist palette": ["palette", "paint palette"],
    "automobile": ["car"],
    "beer mug": ["beer", "glass of beer"],
    "bicycle": ["bike"],
    "birthday cake": ["cake"],
    "clapper board": ["film clapper"],
    "clown face": ["clown"],
    "closed mailbox with raised flag": ["mailbox"],
    "computer mouse": ["mouse"],
    "deciduous tree": ["tree"],
    "delivery truck": ["truck", "lorry"],
    "desktop computer": ["computer"],
    "doughnut": ["donut"],
    "droplet": ["water drop", "drop of water"],
    "ear of corn": ["corn", "maize"],
    "eggplant": ["aubergine"],
    "enraged face": ["angry face"],
    "envelope": ["letter", "mail"],
    "evergreen tree": ["pine tree", "fir tree"],
    "face with tears of joy": ["laughing face"],
    "fire engine": ["fire truck"],
    "flying saucer": ["ufo"],
    "french fries": ["fries"],
    "glasses": ["eyeglasses", "spectacles"],
    "glass of milk": ["milk"],
    "globe showing americas": ["globe", "earth"],
    "graduation cap": ["graduation hat"],
    "grinning face": ["happy face", "smiley"],
    "hamburger": ["burger", "cheeseburger"],
    "high voltage": ["lightning bolt", "lightning"],
    "high-speed train": ["train"],
    "honeybee": ["bee"],
    "hot beverage": ["coffee", "cup of coffee", "cup of tea"],
    "hot pepper": ["chili pepper"],
    "hourglass done": ["hourglass"],
    "house": ["home"],
    "jack-o-lantern": ["pumpkin"],
    "joker": ["playing card"],
    "lady beetle": ["ladybug", "ladybird"],
    "laptop": ["laptop computer"],
    "light bulb": ["lightbulb"],
    "locked": ["lock", "padlock"],
    "loudly crying face": ["crying face"],
    "man's shoe": ["shoe"],
    "magnifying glass tilted left": ["magnifying glass"],
    "microphone": ["mic"],
    "mobile phone": ["phone", "smartphone", "cell phone"],
    "military medal": ["medal"],
    "mouse face": ["mouse head"],
    "pile of poo": ["poop"],
    "piñata": ["pinata"],
    "police car light": ["siren"],
    "pool 8 ball": ["billiard ball"],
    "rabbit face": ["bunny", "rabbit"],
    "racing car": ["race car"],
    "red heart": ["heart"],
    "ringed planet": ["saturn", "planet"],
    "running shoe": ["sneaker"],
    "sailboat": ["boat", "sailing boat"],
    "sauropod": ["dinosaur"],
    "ship": ["cruise ship"],
    "snow-capped mountain": ["mountain"],
    "soccer ball": ["football"],
    "soft ice cream": ["ice cream cone"],
    "speaker high volume": ["speaker"],
    "spouting whale": ["whale"],
    "sport utility vehicle": ["suv"],
    "t-rex": ["tyrannosaurus"],
    "t-shirt": ["shirt"],
    "telephone": ["old telephone"],
    "television": ["tv"],
    "vertical traffic light": ["traffic light"],
    "video game": ["game controller", "gamepad"],
    "videocassette": ["cassette", "cassette player", "vhs tape"],
    "wine glass": ["wine", "glass of wine"],
    "wrapped gift": ["gift", "present"],
}
