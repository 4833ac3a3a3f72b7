"""The lab's words: everyday English words of three to seven letters, in alphabetical order."""

_TEXT = """
acorn actor alarm album alley amber angle ankle apple apron arrow attic autumn award bacon badge
baker bamboo banana banjo barn basil basket beach bead beam bean bear beaver bell bench berry bird
blade boat bone book boot bottle bowl box branch brass bread brick bridge broom brush bucket
button cabin cable cactus cake camel camera canal candle canoe cape card carpet carrot castle cat
cave cello chain chair chalk cheese cherry chest chin church circle city clay cliff clock cloud
clover coach coast cobra coffee coin comb copper coral corn cotton couch cow crab crane cream
cricket crow crown cup dagger daisy dance dawn deer desert desk dew diary dice dinner ditch dock
dog doll donkey door dove dragon drum duck dune dust eagle ear earth echo egg elbow elm engine
fabric fairy falcon farm feather fence ferry field fig finger fire fish flag flame flute fog
forest fork fossil fox frame frog frost fruit garden garlic gate gem ghost giant ginger glass
globe glove goat gold goose grape grass guitar hammer harbor harp hat hawk hazel heart hedge
helmet hen herb heron hill hinge honey hood hook horn horse hotel house
"""

WORDS: tuple[str, ...] = tuple(_TEXT.split())
"""All words the sorting problems draw from."""
