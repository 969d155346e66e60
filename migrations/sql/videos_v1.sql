CREATE VIEW videos AS
SELECT
    video,
    min(source) AS source,
    count(*)::integer AS frames,
    max(CASE WHEN jsonb_typeof(metadata -> 'duration') = 'number' THEN (metadata ->> 'duration')::double precision END)
        AS duration_s,
    min(metadata ->> 'codec') AS codec,
    max(width) AS width,
    max(height) AS height,
    min(description) AS description,
    min(taken_at) AS taken_at,
    min(camera) AS camera,
    min(country) AS country,
    min(city) AS city,
    min(latitude) AS latitude,
    min(longitude) AS longitude,
    min(tags) AS tags,
    max(rating) AS rating,
    min(folder) AS folder,
    max(byte_size) AS byte_size,
    max(modified_at) AS modified_at,
    max(ingested_at) AS ingested_at
FROM images
WHERE video IS NOT NULL
GROUP BY video;

COMMENT ON VIEW videos IS 'The videos of which frames are stored in images, one row each.'
