{{/*
A token of knit's: `knit_`, 43 base64url characters (256 random bits), 6 of a checksum (CRC-32 of all
before it, in base 62). Templates have no CRC-32 and no exclusive or: both are done here digit by
hexadecimal digit, with a table. The tests compare the result with zlib's.
*/}}
{{- define "knit-app.newToken" -}}
{{- $body := printf "knit_%s" (randBytes 32 | replace "+" "-" | replace "/" "_" | trimAll "=") -}}
{{ $body }}{{ include "knit-app.checksum" $body }}
{{- end }}

{{- define "knit-app.checksum" -}}
{{- $digits := "0123456789abcdef" -}}
{{- $value := dict -}}
{{- range $i := until 16 }}{{ $_ := set $value (substr $i (int (add $i 1)) $digits) $i }}{{ end -}}
{{- /* Row a, column b: a xor b. */ -}}
{{- $xor := list "0123456789abcdef" "1032547698badcfe" "23016745ab89efcd" "32107654ba98fedc" "45670123cdef89ab" "54761032dcfe98ba" "67452301efcdab89" "76543210fedcba98" "89abcdef01234567" "98badcfe10325476" "ab89efcd23016745" "ba98fedc32107654" "cdef89ab45670123" "dcfe98ba54761032" "efcdab8967452301" "fedcba9876543210" -}}
{{- $table := list "00000000" "1db71064" "3b6e20c8" "26d930ac" "76dc4190" "6b6b51f4" "4db26158" "5005713c" "edb88320" "f00f9344" "d6d6a3e8" "cb61b38c" "9b64c2b0" "86d3d2d4" "a00ae278" "bdbdf21c" -}}
{{- $crc := "ffffffff" -}}
{{- $hex := printf "%x" . -}}
{{- range $i := until (len .) }}
{{-   range $half := list 1 0 }}
{{-     $at := int (add (mul 2 $i) $half) }}
{{-     $in := get $value (substr $at (int (add $at 1)) $hex) }}
{{-     $low := get $value (substr 7 8 $crc) }}
{{-     $row := index $table (get $value (substr (int $in) (int (add $in 1)) (index $xor $low))) }}
{{-     $shifted := printf "0%s" (substr 0 7 $crc) }}
{{-     $next := "" }}
{{-     range $k := until 8 }}
{{-       $a := get $value (substr $k (int (add $k 1)) $shifted) }}
{{-       $b := get $value (substr $k (int (add $k 1)) $row) }}
{{-       $next = printf "%s%s" $next (substr (int $b) (int (add $b 1)) (index $xor $a)) }}
{{-     end }}
{{-     $crc = $next }}
{{-   end }}
{{- end -}}
{{- $number := int64 0 -}}
{{- range $k := until 8 }}
{{-   $inverted := sub 15 (get $value (substr $k (int (add $k 1)) $crc)) }}
{{-   $number = add (mul $number 16) $inverted }}
{{- end -}}
{{- $alphabet := "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" -}}
{{- $text := "" -}}
{{- range until 6 }}
{{-   $digit := int (mod $number 62) }}
{{-   $text = printf "%s%s" (substr $digit (int (add $digit 1)) $alphabet) $text }}
{{-   $number = div $number 62 }}
{{- end -}}
{{ $text }}
{{- end }}
