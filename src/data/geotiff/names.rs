//! Band names as GDAL keeps them, in a little XML.

/// Band names from GDAL's XML: `<Item name="DESCRIPTION" sample="0" ...>elevation</Item>`.
pub fn band_names(xml: &str, bands: usize) -> Vec<String> {
    let mut names: Vec<String> = (1..=bands).map(|i| format!("band_{i}")).collect();
    for item in xml.split("<Item").skip(1) {
        let Some((attributes, rest)) = item.split_once('>') else { continue };
        let text = unescape(rest.split("</Item").next().unwrap_or_default());
        if attribute(attributes, "name") != Some("DESCRIPTION") || text.trim().is_empty() {
            continue;
        }
        let sample = attribute(attributes, "sample").and_then(|s| s.parse::<usize>().ok());
        if let Some(name) = sample.and_then(|s| names.get_mut(s)) {
            *name = text.trim().to_string();
        }
    }
    names
}

/// The value of `key="value"` among an element's attributes.
fn attribute<'a>(attributes: &'a str, key: &str) -> Option<&'a str> {
    let mut rest = attributes;
    while let Some((name, after)) = rest.split_once('=') {
        let quote = after.chars().find(|c| !c.is_whitespace()).filter(|c| matches!(c, '"' | '\''))?;
        let (_, value) = after.split_once(quote)?;
        let (value, after) = value.split_once(quote)?;
        if name.trim() == key {
            return Some(value);
        }
        rest = after;
    }
    None
}

/// Resolves XML's entities and numbered characters; what is none of them stays as it is.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('&') {
        out += before;
        let entity = after.split_once(';').and_then(|(entity, after)| {
            let character = match entity {
                "lt" => '<',
                "gt" => '>',
                "quot" => '"',
                "apos" => '\'',
                "amp" => '&',
                number => char::from_u32(number.strip_prefix('#')?.parse().ok()?)?,
            };
            Some((character, after))
        });
        let (character, after) = entity.unwrap_or(('&', after));
        out.push(character);
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_gdal_metadata() {
        let xml = "<GDALMetadata>\n  <Item name=\"AREA\">1</Item>\n  <Item name=\"DESCRIPTION\" sample=\"1\" \
                   role=\"description\">canopy &lt;bulk&gt; &amp;lt; &#233;</Item>\n  <Item sample='0' name='DESCRIPTION'>fuel</Item>\
                   <Item name=\"DESCRIPTION\" sample=\"9\">beyond</Item></GDALMetadata>";
        assert_eq!(band_names(xml, 3), ["fuel", "canopy <bulk> &lt; é", "band_3"]);
        assert_eq!(band_names("<Item name=DESCRIPTION", 1), ["band_1"]);
    }
}
